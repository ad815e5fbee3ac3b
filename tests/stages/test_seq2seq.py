"""Models with an encoder and a decoder: the prompt is read, the answer and its end are learned."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import (
    IA3,
    SFT,
    AdaLoRA,
    Adapter,
    Freeze,
    Full,
    GradualUnfreeze,
    LNTuning,
    LoHa,
    LoRA,
    ModelRef,
    Pipeline,
    QLoRA,
    Seq2Seq,
)
from posttrain.errors import ModelError, OverlongError, RowError, RunInterrupted, SettingError, StrategyError
from tests.stages.small_models import bart
from tests.stages.words import WORDS

Rows = list[dict[str, Any]]
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-3}
CONSTANT = {"lr_scheduler_type": "constant"}
# The answer to two words is the second one.
ROWS: Rows = [{"question": f"{a} {b}", "answer": b} for a, b in itertools.product(WORDS[:14], repeat=2)]


@pytest.mark.parametrize(("strategy", "steps"), [(Full(), 120), (LoRA(r=16), 300)], ids=["full", "lora"])
def test_it_learns_and_answers(
    on: Callable[..., Pipeline], t5_model: Path, strategy: Any, steps: int
) -> None:
    """Exact match of generated answers, and transformers' own loss on the saved model is ours."""
    import torch

    held_out = ROWS[3::7]
    stage = Seq2Seq(
        strategy, data=ROWS, eval_data=held_out, learning_rate=5e-3, max_steps=steps, batch_size=32
    )
    run = on(t5_model, [stage]).run()
    metrics = run["seq2seq"].metrics
    assert metrics["exact_match_before"] < 0.2 < 0.9 < metrics["exact_match_after"]
    assert run["seq2seq"].proofs["read_back_difference"] < 1e-4
    model, tokenizer = Pipeline.load(run.folder).model.load()
    assert type(model).__name__ == "T5ForConditionalGeneration"
    losses, count = 0.0, 0
    for row in held_out:
        labels = tokenizer(row["answer"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model(**tokenizer(row["question"], return_tensors="pt"), labels=labels)
        losses, count = losses + float(out.loss) * labels.numel(), count + labels.numel()
    assert losses / count == pytest.approx(metrics["loss_after"], abs=1e-5)
    sample = run["seq2seq"].samples[0]
    assert sample["answer"] == sample["prompt"].split()[1]
    assert next(run.folder.rglob("answers.json"))


def test_another_architecture(on: Callable[..., Pipeline], tmp_path: Path) -> None:
    """BART puts a start token in front of both texts and begins to decode with its end token."""
    stage = Seq2Seq(Full(), data=ROWS, learning_rate=3e-3, max_steps=80, batch_size=32, trainer_args=CONSTANT)
    run = on(bart(tmp_path / "bart"), [stage]).run()
    assert run["seq2seq"].metrics["exact_match_after"] > 0.9


STRATEGIES: dict[str, Any] = {
    "full": Full(), "lora": LoRA(r=4), "named": LoRA(r=4, target_modules=("q", "v")), "qlora": QLoRA(r=4),
    "ia3": IA3(), "adalora": AdaLoRA(r=4, target_r=2), "freeze": Freeze(modules=["decoder"]),
    "pissa": LoRA(r=4, init="pissa"), "adapter": Adapter(bottleneck=4), "loha": LoHa(r=2), "lntuning": LNTuning(),
}  # fmt: skip


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy(on: Callable[..., Pipeline], t5_model: Path, name: str) -> None:
    strategy = STRATEGIES[name]
    pipeline = on(t5_model, [Seq2Seq(strategy, data=ROWS, max_steps=10, batch_size=8, learning_rate=3e-3)])
    (plan,) = pipeline.plan()
    run = pipeline.run()
    assert run["seq2seq"].proofs["parameters_moved"] > 0
    assert run["seq2seq"].metrics["loss_after"] < run["seq2seq"].metrics["loss_before"]
    live = strategy.wrap(
        strategy.prepare_base(ModelRef.of_base(t5_model).load_model().requires_grad_(False)), "seq2seq", 0
    )
    assert plan is not None
    assert plan.trainable_parameters == sum(p.numel() for p in live.parameters() if p.requires_grad)


@pytest.mark.parametrize("handover", ["merge", "continue"])
def test_a_chain_of_two(on: Callable[..., Pipeline], t5_model: Path, handover: Any) -> None:
    lora = LoRA(r=4)
    stages = [
        Seq2Seq(lora, data=ROWS, name="first", **QUICK),
        Seq2Seq(lora, data=ROWS, name="second", handover=handover, **QUICK),
    ]
    run = on(t5_model, stages).run()
    assert len(run.model.adapters) == (1 if handover == "continue" else 2)
    assert run.model.head == "seq2seq_lm"
    # what the second stage starts with is what the first one ended with
    assert run["second"].metrics["loss_before"] == pytest.approx(run["first"].metrics["loss_after"], abs=1e-4)
    run.model.load()


def test_a_base_of_its_own_goes_on(on: Callable[..., Pipeline], t5_model: Path) -> None:
    run = on(t5_model, [Seq2Seq(Full(), data=ROWS, **QUICK)]).run()
    again = on(run.model, [Seq2Seq(LoRA(r=2), data=ROWS, **QUICK)], "again").run()  # type: ignore[arg-type]
    before, after = again["seq2seq"].metrics["loss_before"], run["seq2seq"].metrics["loss_after"]
    assert before == pytest.approx(after, abs=1e-4)


def test_stopped_and_gone_on_is_the_same_to_the_bit(
    on: Callable[..., Pipeline], t5_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages import callbacks

    stages = [
        Seq2Seq(
            LoRA(r=4, dropout=0.1), data=ROWS, max_steps=6, learning_rate=1e-3, trainer_args={"save_steps": 2}
        )
    ]
    whole = on(t5_model, stages, "whole").run()
    real = callbacks.Stop.on_step_end

    def stop_after_three(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 3:
            self._stop.requested = "SIGTERM"
        return real(self, args, state, control, **more)

    monkeypatch.setattr(callbacks.Stop, "on_step_end", stop_after_three)
    with pytest.raises(RunInterrupted, match="in stage seq2seq after step 3"):
        on(t5_model, stages, "stopped").run()
    monkeypatch.undo()
    again = on(t5_model, stages, "stopped").run()
    one, other = (next(run.folder.rglob("adapter_model.safetensors")).read_bytes() for run in (whole, again))
    assert one == other


def test_accumulated_batches_are_one_batch(on: Callable[..., Pipeline], t5_model: Path) -> None:
    """Answers of different lengths: the mean is over tokens, not over batches."""
    rows = [{"prompt": f"{a} {b}", "completion": " ".join([b] * (1 + i % 5))}
            for i, (a, b) in enumerate(itertools.product(WORDS[:8], repeat=2))]  # fmt: skip
    common: dict[str, Any] = {"data": rows, "max_steps": 3, "learning_rate": 1e-3}
    whole = on(t5_model, [Seq2Seq(Full(), batch_size=8, **common)], "whole").run()
    parts = on(t5_model, [Seq2Seq(Full(), batch_size=2, gradient_accumulation=4, **common)], "parts").run()
    for one, other in zip(whole["seq2seq"].history, parts["seq2seq"].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_what_is_refused(on: Callable[..., Pipeline], t5_model: Path, words_model: Path) -> None:
    with pytest.raises(SettingError, match=r"Seq2Seq.*data"):
        Seq2Seq(LoRA())
    for strategy in (Freeze(), Full(llrd=0.9), GradualUnfreeze(), LoRA(layers_to_transform=0)):
        with pytest.raises(StrategyError, match=r"these models have two; take Full\(\) or LoRA\(\)"):
            Seq2Seq(strategy, data=ROWS)
    with pytest.raises(ModelError, match="is a sequence-to-sequence model; train that with Seq2Seq"):
        on(t5_model, [SFT(LoRA())])
    with pytest.raises(ModelError, match="is a causal language model; train that with SFT"):
        on(words_model, [Seq2Seq(LoRA(), data=ROWS)])
    with pytest.raises(ModelError, match="is a causal language model; train that with SFT"):
        on("tiny-random", [Seq2Seq(LoRA(), data=ROWS)])
    turns = [{"role": role, "content": "sun"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(RowError, match=r"rows\[0\]: a sequence-to-sequence model takes texts and one answer"):
        on(t5_model, [Seq2Seq(LoRA(), data=[{"messages": turns}])]).plan()
    long = [{"prompt": f"sun {word}", "completion": "moon " * 40} for word in WORDS]
    with pytest.raises(OverlongError, match="set max_length="):
        on(t5_model, [Seq2Seq(LoRA(), data=long, max_length=20)]).plan()
    with pytest.raises(SettingError, match="posttrain sets predict_with_generate itself"):
        Seq2Seq(LoRA(), data=ROWS, trainer_args={"predict_with_generate": True})
