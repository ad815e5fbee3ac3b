"""The states of packed batches against those of each row alone, and what is left as it is."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.pipeline import packed_rows
from posttrain.pipeline.model_ref import ModelRef
from posttrain.pipeline.packed_rows import Packing, pack_rows, packing_of

Rows = Sequence[Sequence[int]]


@pytest.fixture(scope="module")
def model() -> Any:
    return ModelRef.of_base("tiny-random").load_model()


def padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def states(model: Any, rows: Rows) -> torch.Tensor:
    ids, mask = padded(rows)
    found: torch.Tensor = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return found


SYSTEM = list(range(100, 120))
PAIR = [[*SYSTEM, 5, 6, 7, 8], [*SYSTEM, 5, 6, 9], [*SYSTEM, 5, 6, 7, 8, 10, 11], [50, 51]]


LONG = [[*SYSTEM, *range(30, 62)], [*SYSTEM, *range(40, 90)]]  # more of its own than it shares


@pytest.fixture(params=["a mask", "whole rows"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a row attends that is long beside what it shares: under a mask, or as if it shared nothing."""
    monkeypatch.setattr(packed_rows, "KEYS_AT_ONCE", 4 if request.param == "whole rows" else 512)
    return str(request.param)


def test_a_row_much_longer_than_what_it_shares_attends_whole(by: str) -> None:
    packing = packing_of(*padded([*LONG, *PAIR]), share=True)
    assert packing is not None
    whole = [own for own in packing.rows if own.attends_whole(None)]
    assert len(whole) == 2 * (by == "whole rows")  # not the pair, whose rows share the most
    assert all(own.shared == 20 for own in whole)
    assert not any(own.attends_whole(40) for own in packing.rows)  # the window needs its mask


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("rows", [PAIR, LONG, [*PAIR, *LONG]])
def test_states_are_those_of_each_row_alone(model: Any, rows: Rows) -> None:
    with torch.no_grad():
        together = states(model, rows)
        for found, row in zip(together, rows, strict=True):
            alone = model.model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(found[: len(row)], alone, atol=2e-5, rtol=0)


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("rows", [PAIR, LONG, [*PAIR, *LONG]])
def test_gradients_are_those_of_padded_rows(model: Any, monkeypatch: pytest.MonkeyPatch, rows: Rows) -> None:
    def gradient() -> torch.Tensor:
        model.zero_grad()
        ids, mask = padded(rows)
        out = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        out[mask.bool()].pow(2).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    packed = gradient()
    with monkeypatch.context() as patch:
        patch.setattr("posttrain.pipeline.packed_rows.packing_of", lambda *_, **__: None)
        plain = gradient()
    model.zero_grad(set_to_none=True)
    assert float(packed.abs().max()) > 1e-3
    torch.testing.assert_close(packed, plain, atol=1e-6, rtol=1e-4)


def test_what_rows_begin_with_is_computed_once() -> None:
    packing = packing_of(*padded(PAIR), share=True)
    assert packing is not None
    assert (
        packing.ids_1N.shape[1] == 20 + 4 + 2 + 1 + 2
    )  # 22 tokens are shared, then 5, 6; one row extends another
    without = packing_of(*padded(PAIR), share=False)
    assert without is not None and without.ids_1N.shape[1] == sum(map(len, PAIR))


rows_of_tokens = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=30), min_size=1, max_size=6)


@given(rows_of_tokens, st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_token_finds_itself_and_all_before_it(rows: list[list[int]], share: bool) -> None:
    """Token by token: its place holds its id and position, and its row looks at exactly its own earlier tokens."""
    packing = packing_of(*padded(rows), share=share)
    if packing is None:
        assert len({len(row) for row in rows}) == 1
        return
    ids, positions = packing.ids_1N[0].tolist(), packing.positions_1N[0].tolist()
    looks = {place: at for own in packing.rows for place, at in looked_at(own, packing)}
    assert sorted(looks) == list(range(len(ids)))
    for row, places in zip(rows, packing.places_BL.tolist(), strict=True):
        at = places[: len(row)]
        assert [ids[p] for p in at] == row
        assert [positions[p] for p in at] == list(range(len(row)))
        assert all(looks[place] == at[: i + 1] for i, place in enumerate(at))
        assert set(places[len(row) :]) <= {0}


def looked_at(own: Any, packing: Packing) -> list[tuple[int, list[int]]]:
    seen = [place for begin, end in own.seen for place in range(begin, end)]
    mask = own.mask(None, "cpu")
    if mask is None:
        mask = torch.ones(own.end - own.begin, len(seen)).tril(len(seen) - (own.end - own.begin)).bool()
    return [
        (own.begin + i, [place for place, on in zip(seen, line, strict=True) if on])
        for i, line in enumerate(mask.tolist())
    ]


def test_a_window_hides_what_is_far_behind() -> None:
    ids, mask = padded([list(range(1, 11)), [*range(1, 10), 77, 78]])
    packing = packing_of(ids, mask, share=True)
    assert packing is not None
    found = packing.rows[1].mask(4, "cpu")
    assert found is not None
    assert found.int().tolist() == [[0] * 6 + [1] * 4 + [0], [0] * 7 + [1] * 4]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda ids, mask: {"input_ids": ids, "attention_mask": mask.flip(1)}, id="padding on the left"),
        pytest.param(lambda ids, mask: {"input_ids": ids, "attention_mask": mask, "use_cache": True}, id="a cache"),
        pytest.param(lambda ids, mask: {"input_ids": ids[:1, :10]}, id="nothing to leave out"),
        pytest.param(
            lambda ids, mask: {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}, id="every state"
        ),
    ],
)  # fmt: skip
def test_other_batches_are_computed_as_before(
    model: Any, monkeypatch: pytest.MonkeyPatch, make: Callable[..., dict[str, Any]]
) -> None:
    packed = []
    monkeypatch.setattr(Packing, "unpack", lambda *_: packed.append(1))
    ids, mask = padded(PAIR)
    with torch.no_grad():
        out = model.model(**make(ids, mask))
    assert out.last_hidden_state.shape[0] == make(ids, mask)["input_ids"].shape[0]
    assert not packed


def test_with_dropout_no_row_shares_a_draw(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = []
    real = packed_rows.packing_of
    monkeypatch.setattr(
        packed_rows, "packing_of", lambda *given, share: shared.append(share) or real(*given, share=share)
    )
    model.train()
    try:
        states(model, PAIR)
        model.model.layers[0].extra = torch.nn.Dropout(0.1)
        states(model, PAIR)
    finally:
        del model.model.layers[0].extra
        model.eval()
    assert shared == [True, False]


@pytest.mark.parametrize("kind", ["gpt2", "qwen2 with a window", "gemma2", "bert"])
def test_models_of_other_kinds(kind: str) -> None:
    """Equal states whether a kind can be packed or not; gemma 2 caps its scores and BERT looks both ways, so they stay."""
    import transformers as hf

    small: dict[str, Any] = {"vocab_size": 200, "num_attention_heads": 2}
    depth: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, **small}
    made: dict[str, tuple[Any, Any, bool]] = {
        "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=200), True),
        "qwen2 with a window": (
            hf.Qwen2ForCausalLM,
            hf.Qwen2Config(**depth, num_key_value_heads=1, use_sliding_window=True, sliding_window=6, max_window_layers=1),
            True,
        ),
        "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config(**depth, num_key_value_heads=1, head_dim=16), False),
        "bert": (hf.BertForMaskedLM, hf.BertConfig(**depth), False),
    }  # fmt: skip
    kind_of, config, packs = made[kind]
    torch.manual_seed(0)
    model = kind_of(config).eval()
    ids, mask = padded(PAIR)
    decoder = getattr(model, model.base_model_prefix)

    def found() -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = decoder(input_ids=ids, attention_mask=mask, **no_cache).last_hidden_state
        return out[mask.bool()]

    no_cache = {} if kind == "bert" else {"use_cache": False}
    before = found()
    pack_rows(model)
    assert bool(decoder._forward_pre_hooks) == packs
    torch.testing.assert_close(found(), before, atol=1e-5, rtol=0)
