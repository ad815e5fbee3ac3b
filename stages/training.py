"""One training stage from its input model to a proven artifact."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..pipeline import StageContext, StageResult
from ..pipeline.allocator import give_back_freed_memory, large_blocks_returned
from ..pipeline.base_models import shared_tokenizer
from ..pipeline.durable import write_bytes
from .checkpoints import newest_whole_checkpoint
from .data_card import data_card
from .forgetting import FORGETTING
from .forgetting.check import ForgettingCheck
from .gates import check_names
from .handover import Probe, hand_over, save_artifact
from .intervals import Measured, before_and_after
from .proofs import prove_finite
from .samples import sample_answers
from .token_tables import load_tables

if TYPE_CHECKING:
    from .strategies import StepHooks
    from .training_stage import TrainingStage


class Session(Protocol):
    """What is in memory while a stage trains; dropped before the artifact is read back."""

    model: Any  # what is trained and saved
    hooks: StepHooks  # of the strategy

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes activations again, because memory is short."""

    def prove_start(self) -> None:
        """Take the proofs that must hold before step 1; raises HandoverError."""

    def measure(self) -> Sequence[Measured]:
        """The held-out numbers of the model as it is now; none without held-out rows."""

    def fit(self, checkpoint: Path | None) -> None:
        """Train to the end, from a checkpoint where there is one; raises RunInterrupted after a signal."""

    def closing_numbers(self) -> Mapping[str, float]:
        """Numbers about the training itself: steps, mean loss."""


def train(stage: TrainingStage, context: StageContext) -> StageResult:
    """Read, load, prove, measure, train, save, read back, prove, hand over."""
    gc.freeze()  # the libraries' many objects need no second look when the model is dropped
    try:
        return _train(stage, context)
    finally:
        gc.unfreeze()


def _names(stage: TrainingStage, measured: Sequence[Measured]) -> set[str]:
    """Of all that the stage will have measured; without held-out rows, only what neutral text shows."""
    names = {name for one in measured for name in one.numbers}
    if not stage.checks_forgetting:
        return names
    return names | {name for name in FORGETTING if measured or not name.startswith("own_")}


def _train(stage: TrainingStage, context: StageContext) -> StageResult:
    events, source = context.events, context.inputs["policy"]
    base = source.find()
    events.phase("reading data")
    tokenizer = shared_tokenizer(base.folder)
    tables = load_tables(stage.request, lambda: tokenizer, base.tokenizer_fingerprint)
    for line in (*tables.report.lines()[:2], tables.origin):
        events.say(line)
    for path in tables.bad_rows if context.ranks.main else ():
        write_bytes(context.folder / path.name, path.read_bytes())
    context.stop.raise_if_requested("after reading the data")

    events.phase("loading the model")
    ranks, checkpoints = context.ranks, context.folder / "checkpoints"
    checkpoint = ranks.share(newest_whole_checkpoint(checkpoints) if ranks.main else None)
    session = stage.open(context, tables, tokenizer)
    session.prove_start()
    events.phase("measuring before training")
    before = session.measure()
    check_names(context.name, stage.require, _names(stage, before))
    shown = tables.train if tables.held_out is None else tables.held_out
    context.stop.raise_if_requested("before training")

    give_back_freed_memory()  # what was measured with, in sizes that the steps do not ask for
    with large_blocks_returned() if session.recomputes else nullcontext():
        session.fit(checkpoint[0] if checkpoint else None)
    prove_finite(session.model)
    events.phase("measuring after training")
    after = session.measure()
    context.stop.raise_if_requested("after training")

    if not ranks.main:  # the main rank saves, and proves what it saved
        return StageResult(models={})
    events.phase("saving and reading back")
    probe = Probe.of(session.model, shown, int(tokenizer.pad_token_id))
    artifact = save_artifact(session.model, tokenizer, stage, source, context.folder, session.hooks)
    metrics, intervals = before_and_after(before, after)
    metrics |= session.closing_numbers()
    del session  # one copy of the model in memory: the live one goes before the saved one comes
    give_back_freed_memory()
    made, model = hand_over(stage, source, artifact, probe, events.prove)
    talks, answers_before = stage.task in ("policy", "seq2seq"), list[str]()
    samples = sample_answers(model, tokenizer, shown, context.asked) if talks else []

    def ask(given: Any) -> None:  # not before training: people wait for its first step
        answers_before.extend(one["answer"] for one in sample_answers(given, tokenizer, shown))

    if stage.checks_forgetting:
        events.phase("measuring what was forgotten")
        check = ForgettingCheck(model, tokenizer, tables.held_out)
        del model
        numbers, bounds = check.against(source, context.start or source, ask)
        metrics |= numbers
        intervals |= bounds
    elif talks:
        dtype = model.dtype
        del model
        ask(source.load_model(dtype=dtype))
    for sample, text in zip(samples, answers_before, strict=False):
        sample["before"] = text
    return StageResult(
        models={stage.makes: made},
        metrics=metrics,
        data=tables.as_dict() | data_card(tables.train, tokenizer, stage.request.max_length),
        proofs=events.proofs,
        samples=samples,
        intervals=intervals,
    )
