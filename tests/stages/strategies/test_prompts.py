"""Trained prompts: what they start as, where padding may stand, what a restart keeps, and where they cannot be used."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import (
    CPT,
    DPO,
    GRPO,
    KTO,
    ORPO,
    PPO,
    SFT,
    LoRA,
    Pipeline,
    PrefixTuning,
    PromptTuning,
    PTuning,
    RewardModel,
)
from posttrain.errors import SettingError, StrategyError
from posttrain.pipeline import ModelRef
from posttrain.pipeline.model_ref import with_reward_head
from posttrain.stages.evaluation import log_probs, logits, scores
from tests.stages.words import WORDS

Rows = list[dict[str, Any]]
TEXT = "answer the question"
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2, "max_length": 128}
KINDS = {
    "prompt": PromptTuning(tokens=6),
    "prefix": PrefixTuning(tokens=6),
    "p-tuning": PTuning(tokens=6),
    "lstm": PTuning(tokens=6, hidden=16, encoder="lstm"),
}
every = pytest.mark.parametrize("name", KINDS)
ROWS = [[5, 9, 300, 17, 40, 41], [8, 8], [60, 61, 62, 63]]


def tiny_model() -> Any:
    return ModelRef.of_base("tiny-random").load_model().requires_grad_(False)


def trained(name: str, task: Any = "policy") -> Any:
    """Wrapped, started, and moved away from the start."""
    model = tiny_model()
    if task == "reward":
        model = with_reward_head(model, 1)
    model = KINDS[name].wrap(model, task, 0)
    KINDS[name].start(model, None)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.prompt_encoder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def left_padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


@pytest.mark.parametrize("kind", [PromptTuning, PrefixTuning])
def test_a_text_starts_it_as_that_text_in_the_prompt(kind: Any) -> None:
    """The reference is the plain model, reading the text's tokens in front of the row's."""
    model = tiny_model()
    strategy = kind(tokens=9, text=TEXT)
    ids = strategy._text_ids(model)
    written = (ids * 9)[:9]  # shorter than nine tokens: from its start again
    assert 0 < len(ids) < 9
    with torch.no_grad():
        expected = model(torch.tensor([written + ROWS[0]])).logits[:, 9:]
        wrapped = strategy.wrap(model, "policy", 0).eval()
        strategy.start(wrapped, None)
        assert torch.allclose(logits(wrapped, ROWS[:1], 0), expected, atol=1e-5)


def test_without_a_text_they_start_as_tokens_of_the_vocabulary() -> None:
    strategy = PromptTuning(tokens=6)
    model = strategy.wrap(tiny_model(), "policy", 3)
    strategy.start(model, None)
    again = strategy.wrap(tiny_model(), "policy", 3)
    strategy.start(again, None)
    rows = model.prompt_encoder["default"].embedding.weight
    table = model.get_input_embeddings().weight
    assert all(bool((table == row).all(1).any()) for row in rows)
    assert torch.equal(rows, again.prompt_encoder["default"].embedding.weight)  # of the seed


@every
def test_only_the_prompt_is_trained_and_off_it_is_the_model(name: str) -> None:
    model = trained(name)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith("prompt_encoder.default.")
    }
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        base = tiny_model()(ids).logits
        assert float((logits(model, ROWS[:1], 0) - base).abs().max()) > 1e-3
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, base)


@every
def test_padding_changes_nothing_wherever_it_stands(name: str) -> None:
    model = trained(name)
    right = logits(model, ROWS, 0)
    with torch.no_grad():
        left = model(**left_padded(ROWS)).logits
    for i, row in enumerate(ROWS):
        alone = logits(model, [row], 0)[0]
        assert alone.shape == (len(row), model.config.vocab_size)
        assert torch.allclose(right[i, : len(row)], alone, atol=1e-5)
        assert torch.allclose(left[i, -len(row) :], alone, atol=1e-5)


@every
def test_scores_are_read_off_the_last_token_wherever_padding_stands(name: str) -> None:
    """PEFT's own model reads them off the last place of the batch."""
    model = trained(name, "reward")
    alone = [scores(model, [row], 0)[0] for row in ROWS]
    assert scores(model, ROWS, 0) == pytest.approx(alone, abs=1e-5)
    with torch.no_grad():
        assert model(**left_padded(ROWS)).logits[:, 0].tolist() == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 3) for score in alone}) == 3


@every
def test_generation_in_a_padded_batch_is_generation_alone(name: str) -> None:
    model = trained(name)
    common = {
        "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "output_scores": True,
        "return_dict_in_generate": True,
    }  # fmt: skip
    with torch.no_grad():
        together = model.generate(**left_padded(ROWS), **common)
        for i, row in enumerate(ROWS):
            alone = model.generate(**left_padded([row]), **common)
            for both, one in zip(together.scores, alone.scores, strict=True):
                assert torch.allclose(both[i], one[0], atol=1e-5)
            read = logits(model, alone.sequences.tolist(), 0)[0, len(row) - 1 : -1]  # without a cache
            assert torch.allclose(torch.cat(alone.scores), read, atol=1e-5)


_LIKE_LLAMA: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 400,
    "intermediate_size": 48, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", [PromptTuning, PrefixTuning])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Qwen3Config", _LIKE_LLAMA),
        ("Gemma3TextConfig", {**_LIKE_LLAMA, "query_pre_attn_scalar": 8, "sliding_window": 32}),
        ("GPT2Config", {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 400, "n_positions": 64}),
        ("OPTConfig", {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 400,
                       "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    ],
)  # fmt: skip
def test_other_architectures(monkeypatch: pytest.MonkeyPatch, name: str, settings: Any, kind: Any) -> None:
    """With grouped heads, scaled embeddings, sliding windows, learned positions: a text is still that text."""
    import transformers

    strategy = kind(tokens=6, text=TEXT)
    monkeypatch.setattr(type(strategy), "_text_ids", lambda *_: [11, 12, 13])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings)).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[11, 12, 13, 11, 12, 13, *ROWS[2]]])).logits[:, 6:]
        wrapped = strategy.wrap(model, "policy", 0).eval()
        strategy.start(wrapped, None)
        assert torch.allclose(logits(wrapped, [ROWS[2]], 0), expected, atol=1e-5)
        left = wrapped(**left_padded(ROWS)).logits[2, -len(ROWS[2]) :]
        assert torch.allclose(left, expected[0], atol=1e-5)
        common = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0, "output_scores": True}
        made = wrapped.generate(**left_padded(ROWS), **common, return_dict_in_generate=True)
        assert torch.allclose(made.scores[0][2], expected[0, -1], atol=1e-5)


@every
def test_log_probabilities_are_of_the_right_tokens(name: str) -> None:
    model = trained(name)
    row, labels = ROWS[0], [-100, -100, *ROWS[0][2:]]
    found = log_probs(model, [(row, labels), (ROWS[1], ROWS[1])], 0)
    expected = torch.log_softmax(logits(model, [row], 0)[0].double(), -1)
    assert found.sums[0] == pytest.approx(
        sum(float(expected[i - 1, row[i]]) for i in range(2, len(row))), abs=1e-4
    )
    assert found.counts == [4, 1]


@pytest.mark.parametrize("name", ["prompt", "prefix", "p-tuning"])
@pytest.mark.parametrize("kind", [CPT, DPO, KTO, ORPO])
def test_the_stages_that_learn_from_data(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str, kind: Any
) -> None:
    data = rows["text"] if kind is CPT else rows["pairs"]
    record = tiny([kind(KINDS[name], data=data, **QUICK)]).run()[kind.__name__.lower()]
    assert record.proofs["parameters_moved"] > 0
    assert record.proofs["read_back_difference"] < 1e-4
    assert record.metrics["loss_after"] < record.metrics["loss_before"]
    if kind is DPO:  # the reference is the prompt as it starts
        assert record.proofs["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert record.proofs["reference_difference_nats"] < 1e-4
    if kind is not CPT:
        assert not (record.folder / "adapter" / "ref").exists()


@every
def test_the_trainable_count_is_the_plans(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str
) -> None:
    for kind, data, task in ((SFT, "chat", "policy"), (RewardModel, "pairs", "reward")):
        plan = tiny([kind(KINDS[name], data=rows[data], **QUICK)]).plan()[0]
        model = trained(name, task)
        assert plan is not None
        assert plan.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SFT, "p-tuning"),
        (SFT, "prefix"),
        *(pytest.param(DPO, name, marks=pytest.mark.slow) for name in ("lstm", "prompt")),
    ],
)
def test_stopped_and_resumed_it_is_the_same(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], monkeypatch: pytest.MonkeyPatch, name: str, kind: Any
) -> None:  # fmt: skip
    """PEFT's checkpoint holds what an encoder gives, not the encoder; DPO's reference is beside it."""
    from safetensors.torch import load_file

    from posttrain.pipeline.events import StageEvents

    stage = kind(KINDS[name], data=rows["chat" if kind is SFT else "pairs"], **{**QUICK, "max_steps": 5})
    title = kind.__name__.lower()
    expected = tiny([stage], name="whole").run()[title]
    real = StageEvents.step

    def fails(self: Any, step: int, metrics: Any) -> None:
        if step == 4:
            raise ConnectionError("the disk is gone")
        real(self, step, metrics)

    pipeline = tiny([stage], name="stopped")
    with monkeypatch.context() as patch:
        patch.setattr(StageEvents, "step", fails)
        with pytest.raises(ConnectionError):
            pipeline.run()
    assert list(pipeline.run_dir.rglob("checkpoints/*"))  # it goes on from there, and does not start anew
    again = pipeline.run()[title]
    for file in sorted((expected.folder / "adapter").glob("*.safetensors")):
        values, others = load_file(file), load_file(again.folder / "adapter" / file.name)
        assert values.keys() == others.keys()
        assert all(torch.equal(others[key], value) for key, value in values.items()), file.name
    assert [line["loss"] for line in again.history] == [line["loss"] for line in expected.history]


def test_continuing_takes_the_encoder_along(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    """Two stages of three steps, the second with nothing to learn: it leaves the encoder as it was."""
    from safetensors.torch import load_file

    strategy = KINDS["p-tuning"]
    still = SFT(
        strategy, data=rows["chat"], name="again", handover="continue", **{**QUICK, "learning_rate": 1e-12}
    )
    run = tiny([SFT(strategy, data=rows["chat"], **QUICK), still]).run()
    first, second = (load_file(run[name].folder / "adapter" / "prompt_encoder.safetensors")
                     for name in ("sft", "again"))  # fmt: skip
    assert all(torch.allclose(second[name], value, atol=1e-6) for name, value in first.items())
    assert run["again"].metrics["loss_before"] == pytest.approx(run["sft"].metrics["loss_after"], abs=1e-5)
    assert len(run.model.adapters) == 1


def test_another_process_reads_the_same_model(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    run = tiny([SFT(KINDS["p-tuning"], data=rows["chat"], **QUICK)]).run()
    model, _ = run.model.load()
    code = (
        "import json, sys; from posttrain import Pipeline\n"
        "from posttrain.stages.evaluation import logits\n"
        f"model, _ = Pipeline.load(sys.argv[1]).model.load()\n"
        f"print(json.dumps(logits(model, {ROWS!r}, 0).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).resolve().parents[3])  # fmt: skip
    read = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert torch.equal(read, logits(model, ROWS, 0))


def test_a_reward_model_behind_a_prompt_judges_other_policies(
    words: Callable[..., Pipeline], prompts: Rows
) -> None:
    """It stays a model of its own: its prompt is no part of the layers that the roles share."""
    pairs = [{"prompt": one, "chosen": "river", "rejected": "a"} for one in WORDS[:16]]
    chain = [
        RewardModel(PromptTuning(tokens=4), data=pairs, max_steps=10, batch_size=8, learning_rate=3e-2, max_length=32),
        PPO(LoRA(r=4), data=prompts, max_length=32, max_new_tokens=4, batch_size=8, max_steps=2, gate=None),
    ]  # fmt: skip
    run = words(chain).run()
    assert run["ppo"].proofs["reference_difference_nats"] < 1e-5
    assert run.reward_model is not None
    model, tokenizer = run.reward_model.load()
    good, bad = (tokenizer(f"<|user|> boat <|end|> <|assistant|> {word} <|end|>")["input_ids"]
                 for word in ("river", "a"))  # fmt: skip
    assert scores(model, [good], 0)[0] > scores(model, [bad], 0)[0]


@pytest.mark.parametrize("name", ["prompt", "p-tuning"])
def test_computing_activations_again_changes_no_loss(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str
) -> None:
    losses = []
    for on in (False, True):
        stage = SFT(KINDS[name], data=rows["chat"], trainer_args={"gradient_checkpointing": on}, **QUICK)
        losses.append([line["loss"] for line in tiny([stage], name=str(on)).run()["sft"].history])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_prefix_cannot_compute_activations_again(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SFT(KINDS["prefix"], data=rows["chat"], trainer_args={"gradient_checkpointing": True}, **QUICK)
    with pytest.raises(StrategyError, match=r"cannot be had with PrefixTuning\(.*\), whose activations"):
        tiny([asked])
    from posttrain.stages.planner import plan

    whole = tiny([SFT(KINDS["prefix"], data=rows["chat"], **QUICK)]).plan()[0]
    assert whole is not None

    def small() -> Any:
        from dataclasses import replace

        from posttrain.stages.machine import this_machine

        return replace(this_machine(), memory_bytes=int(whole.memory_bytes / 0.95))  # it fits, and is tight

    monkeypatch.setattr(plan, "this_machine", small)
    plan = tiny([SFT(KINDS["prefix"], data=rows["chat"], **QUICK)]).plan()[0]
    assert plan is not None and any("PrefixTuning cannot compute activations again" in n for n in plan.notes)
    plan = tiny([SFT(KINDS["prompt"], data=rows["chat"], **QUICK)]).plan()[0]
    assert plan is not None and not any("activations again" in note for note in plan.notes)


@pytest.mark.parametrize("stage", [PPO, GRPO])
@every
def test_no_learning_from_its_own_answers(tiny: Callable[..., Pipeline], name: str, stage: Any) -> None:
    with pytest.raises(StrategyError, match="cannot be trained on its own answers") as caught:
        tiny([stage(KINDS[name], data=[{"prompt": "a"}] * 20, reward=len)])
    assert "\n" not in str(caught.value)


def test_the_prompt_needs_its_positions(tiny: Callable[..., Pipeline]) -> None:
    long = [{"text": "river " * 1990 + str(i)} for i in range(20)]
    with pytest.raises(
        SettingError, match=r"and the 100 of PromptTuning in front of them .* set max_length=1948"
    ):
        tiny([CPT(PromptTuning(tokens=100), data=long, max_length=2048)]).plan()
    assert tiny([CPT(PromptTuning(tokens=2), data=long, max_length=2048)]).plan()[0] is not None


def test_a_text_that_is_too_long_is_not_cut(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    strategy = PromptTuning(tokens=2, text=TEXT * 3)
    with pytest.raises(StrategyError, match=r"PromptTuning\(tokens=2\): the text has \d+ tokens, so its end"):
        tiny([SFT(strategy, data=rows["chat"])]).plan()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PromptTuning(tokens=0), "tokens must be a whole number at least 1"),
        (lambda: PrefixTuning(tokens=None), "tokens must be a whole number at least 1"),  # type: ignore[arg-type]
        (lambda: PromptTuning(text=" "), "text must be a text, or None"),
        (lambda: PTuning(encoder="gru"), "encoder must be one of 'mlp', 'lstm'"),  # type: ignore[arg-type]
        (lambda: PTuning(hidden=0), "hidden must be a whole number at least 1"),
        (lambda: PTuning(text="no"), "PTuning has no setting 'text'"),  # type: ignore[call-arg]
    ],
)
def test_refused_when_it_is_written(make: Any, text: str) -> None:
    with pytest.raises(SettingError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)
