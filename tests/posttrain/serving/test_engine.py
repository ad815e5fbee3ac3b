"""Continuous batching gives each row what the model's own `generate` gives it alone, on several architectures."""

import queue
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from posttrain.errors import ModelError
from posttrain.serving.engine import Engine, Limits, NoSuchAdapter, Overloaded, Ticket
from posttrain.serving.sampling import Draws, Sampling, pick

SIZE: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SIZE),
    "eager": LlamaConfig(**SIZE, attn_implementation="eager"),
    "qwen3": Qwen3Config(**SIZE),
    "mistral": MistralConfig(**SIZE, sliding_window=6),  # every layer slides
    "gemma3": Gemma3TextConfig(**SIZE, sliding_window=6, layer_types=["sliding_attention", "full_attention"]),
    "gpt2": GPT2Config(vocab_size=101, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=1, bos_token_id=2, pad_token_id=0),
}  # fmt: skip


def model_of(config: PretrainedConfig) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for (
            parameter
        ) in model.parameters():  # the usual start is so small that all tokens are nearly as likely
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


GREEDY = Sampling(0.0)


class Asked:
    """An answer on its way."""

    def __init__(
        self, engine: Engine, prompt: Sequence[int], tokens: int, sampling: Sampling = GREEDY
    ) -> None:
        self._parts: queue.Queue[tuple[list[int], str | None]] = queue.Queue()
        self.ticket: Ticket = engine.submit(
            prompt, tokens, sampling, None, lambda new, why: self._parts.put((new, why))
        )

    def all(self) -> tuple[list[int], str]:
        said: list[int] = []
        while True:
            new, reason = self._parts.get(timeout=120)
            said += new
            if reason:
                return said, reason

    def some(self, tokens: int) -> None:
        for _ in range(tokens):
            self._parts.get(timeout=120)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_come_and_go_are_answered_as_alone(name: str) -> None:
    model, draw = model_of(CONFIGS[name]), random.Random(0)
    prompts = [[draw.randrange(3, 101) for _ in range(draw.choice([1, 2, 5, 9, 40]))] for _ in range(14)]
    tokens = [draw.randint(1, 24) for _ in prompts]
    want = []
    for prompt, most in zip(prompts, tokens, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)[
            0
        ]
        want.append([token for token in out[len(prompt) :].tolist() if token != 1])
    # Prompts are read in several steps, several at once, and wait for rows and for the cache.
    engine = Engine(model, [1], Limits(rows=4, cache_tokens=200, prompt_tokens=16))
    try:
        asked = [Asked(engine, prompt, most) for prompt, most in zip(prompts, tokens, strict=True)]
        dropped = Asked(engine, prompts[4], 400 - len(prompts[4]) - 250)
        dropped.some(2)
        dropped.ticket.cancel()
        found = [one.all()[0] for one in asked]
    finally:
        engine.close()
    assert found == want


def test_other_kinds_of_layers_are_refused() -> None:
    config = JambaConfig(**SIZE, num_experts=1, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False)
    with pytest.raises(ModelError, match="serve it with vLLM"):
        Engine(AutoModelForCausalLM.from_config(config).eval(), [1])


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of(CONFIGS["llama"])


def test_an_answer_depends_on_its_seed_alone(llama: Any) -> None:
    engine = Engine(llama, [1], Limits(rows=6))
    how = [Sampling(1.3, top_p, seed) for top_p in (1.0, 0.8) for seed in (1, 2)]
    try:
        alone = [Asked(engine, [5, 6, 7], 12, one).all() for one in how]
        beside = [Asked(engine, [9] * (i + 1), 30, Sampling(1.0, 1.0, 7)) for i in range(2)]
        together = [Asked(engine, [5, 6, 7], 12, one) for one in how]
        assert [one.all() for one in together] == alone
        assert len({tuple(said) for said, _ in alone}) == 4
        for one in beside:
            one.all()
    finally:
        engine.close()


def test_a_full_queue_and_a_removed_adapter_are_errors(llama: Any) -> None:
    engine = Engine(llama, [], Limits(rows=1, waiting=2))
    try:
        first = Asked(engine, [5], 400)
        first.some(1)
        waiting = [Asked(engine, [5], 3) for _ in range(2)]
        with pytest.raises(Overloaded, match="2 requests are waiting"):
            Asked(engine, [5], 3)
        waiting[0].ticket.cancel()
        more = Asked(engine, [5], 3)  # its place is free again
        first.ticket.cancel()
        assert [len(one.all()[0]) for one in (waiting[1], more)] == [3, 3]
        with pytest.raises(NoSuchAdapter):
            engine.submit([5], 3, Sampling(), "adapter9", lambda new, why: None)
    finally:
        engine.close()


def test_what_takes_too_long_ends(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(llama, [], Limits(rows=1, seconds=0.0))
    try:
        assert Asked(engine, [5], 400).all()[1] == "timeout"
        assert engine.load == (0, 0)
    finally:
        engine.close()


def test_a_failed_step_loses_its_answers_and_no_others(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(llama, [], Limits(rows=2))
    try:
        asked = Asked(engine, [5], 400)
        asked.some(1)
        with monkeypatch.context() as broken:

            def fails(*args: Any, **kwargs: Any) -> Any:
                raise MemoryError("no memory")

            broken.setattr("posttrain.serving.engine.pick", fails)
            assert asked.all()[1] == "error"
        assert len(Asked(engine, [5], 3).all()[0]) == 3
    finally:
        engine.close()


def test_a_client_that_cannot_be_told_hurts_no_other(llama: Any) -> None:
    def gone(new: list[int], why: str | None) -> None:
        raise RuntimeError("the loop is closed")

    engine = Engine(llama, [], Limits(rows=2))
    try:
        other = Asked(engine, [6, 7], 40)
        engine.submit([5], 400, Sampling(), None, gone)
        assert len(other.all()[0]) == 40
    finally:
        engine.close()


def test_drawing_follows_the_distribution_and_its_nucleus() -> None:
    # softmax of these is 0.5, 0.3, 0.15, 0.05
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    for top_p, want in (
        (1.0, [0.5, 0.3, 0.15, 0.05]),
        (0.7, [0.625, 0.375, 0, 0]),
        (0.5, [1, 0, 0, 0]),
        (0.0, [1, 0, 0, 0]),
    ):
        how = [Sampling(1.0, top_p, seed) for seed in range(4000)]
        chosen = pick(logits, how, [Draws(one.seed) for one in how])
        shares = [chosen.count(token) / 4000 for token in range(4)]
        assert shares == pytest.approx(want, abs=0.03)  # 3.8 standard deviations of 0.5 are 0.03
    cold = [Sampling(1e-9, 1.0, seed) for seed in range(4)]
    assert pick(logits[:4], cold, [Draws(0)] * 4) == [0] * 4


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_slot_holds_is_not_read_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dialogue goes on, and another begins alike, beside it and after it: the same answers, for fewer tokens read."""
    from posttrain.serving.decoder import Decoder

    read: list[int] = []
    real = Decoder.logits

    def counted(self: Any, first: int, tokens: Any, lengths: Any, adapters: Any) -> Any:
        read.extend(len(new) for new in tokens if len(new) > 1 or not lengths[0])
        return real(self, first, tokens, lengths, adapters)

    model, draw = model_of(CONFIGS[name]), random.Random(3)
    start = [draw.randrange(3, 101) for _ in range(20)]
    longer, other = [*start, *(draw.randrange(3, 101) for _ in range(12))], [*start[:15], 7, 8, 9]

    def answered(engine: Engine) -> list[list[int]]:
        first = Asked(engine, start, 5).all()[0]
        pair = [Asked(engine, prompt, 9) for prompt in (longer, other)]
        return [first, *(one.all()[0] for one in pair), Asked(engine, start, 5).all()[0]]

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "recall", lambda *_: 0)
        plain = Engine(model, [1])
        want = answered(plain)
        plain.close()
    monkeypatch.setattr(Decoder, "logits", counted)
    engine = Engine(model, [1])
    read.clear()
    assert answered(engine) == want
    engine.close()
    assert read[0] == 20
    assert (
        sum(read[1:]) <= 12 + 3 + 5
    )  # of 32, 18 and 20; how much of the last one is left depends on who ended first


@pytest.mark.parametrize("name", CONFIGS)
def test_a_known_prompt_is_read_beside_a_new_one(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One is known but for its last token and the other is not known at all: side by side they need the most room."""
    model, draw = model_of(CONFIGS[name]), random.Random(5)
    known, new = ([draw.randrange(3, 101) for _ in range(length)] for length in (250, 200))
    want = []
    for prompt in (known, new):
        alone = Engine(model, [1])
        want.append(Asked(alone, prompt, 3).all())
        alone.close()
    engine = Engine(model, [1])
    assert Asked(engine, known, 3).all() == want[0]
    with engine._changed:  # both before the engine looks
        both = [Asked(engine, prompt, 3) for prompt in (known, new)]
    assert [one.all() for one in both] == want
    engine.close()
    assert not caplog.records


def test_an_adapter_has_its_own_memory() -> None:
    from posttrain.serving.decoder import Decoder

    decoder = Decoder(model_of(CONFIGS["llama"]), 512)
    decoder.reserve(3, 32)
    prompt = list(range(3, 23))
    decoder.logits(0, [prompt], [0], ["a"])
    assert decoder.recall(1, prompt, "b") == 0
    assert decoder.recall(1, prompt, "a") == 19  # the last token's logits must be asked for
    assert decoder.recall(2, [*prompt[:7], 99], "a") == 0  # not worth a copy
    decoder.reset()
    assert decoder.recall(0, prompt, "a") == 0
