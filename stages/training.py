"""One training stage from its input model to a proven artifact."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import DiskSpaceError

from ..pipeline import ModelRef, StageContext, StageResult
from ..pipeline.base_models import shared_tokenizer
from ..pipeline.durable import is_disk_full
from ..pipeline.model_ref import with_reward_head
from .arguments import trainer_arguments
from .checkpoints import newest_whole_checkpoint
from .handover import Probe, hand_over, save_artifact, stands_on
from .machine import this_machine
from .planning import longest_row, wants_checkpointing
from .proofs import prove_finite, prove_reference
from .samples import sample_answers
from .token_tables import Tables, load_tables
from .trl_api import make_trainer

if TYPE_CHECKING:
    from .training_stage import TrainingStage


@dataclass(frozen=True)
class _Session:
    """What is in memory while a stage trains; dropped before the artifact is read back."""

    model: Any
    reference: Any  # a frozen model, or None when the model's adapters carry the reference
    trainer: Any


def train(stage: TrainingStage, context: StageContext) -> StageResult:
    """Read, load, prove, measure, train, save, read back, prove, hand over."""
    gc.freeze()  # the libraries' many objects need no second look when the model is dropped
    try:
        return _train(stage, context)
    finally:
        gc.unfreeze()


def _train(stage: TrainingStage, context: StageContext) -> StageResult:
    events, source = context.events, context.inputs["policy"]
    base = source.find()
    events.phase("reading data")
    tokenizer = shared_tokenizer(base.folder)
    tables = load_tables(stage.request, tokenizer, base.tokenizer_fingerprint)
    context.stop.raise_if_requested("after reading the data")

    events.phase("loading the model")
    checkpoint = newest_whole_checkpoint(context.folder / "checkpoints")
    session = _open(stage, source, tables, tokenizer, context)
    pad_id = int(tokenizer.pad_token_id)
    if rows := stage.reference_rows(tables.train):
        difference = prove_reference(session.model, session.reference, rows, pad_id)
        events.prove("reference_difference_nats", difference)
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    measure = None
    if tables.held_out is not None:
        events.phase("measuring before training")
        before, measure = stage.measuring(session.model, tables.held_out, pad_id)
    context.stop.raise_if_requested("before training")

    _fit(session.trainer, context, checkpoint[0] if checkpoint else None)
    prove_finite(session.model)
    if measure is not None:
        events.phase("measuring after training")
        after = measure(session.model)
    context.stop.raise_if_requested("after training")

    events.phase("saving and reading back")
    shown = tables.train if tables.held_out is None else tables.held_out
    probe = Probe.of(session.model, shown, pad_id)
    artifact = save_artifact(session.model, tokenizer, stage, source, context.folder)
    metrics = _before_and_after(before, after) | _closing_numbers(session.trainer.state)
    del session, measure  # one copy of the model in memory: the live one goes before the saved one comes
    gc.collect()
    made, model = hand_over(stage, source, artifact, probe, events.prove)
    samples = sample_answers(model, tokenizer, shown) if stage.task == "policy" else []
    return StageResult(
        models={stage.makes: made},
        metrics=metrics,
        data=tables.as_dict(),
        proofs=events.proofs,
        samples=samples,
    )


def _open(
    stage: TrainingStage, source: ModelRef, tables: Tables, tokenizer: Any, context: StageContext
) -> _Session:
    """Load and wrap the model, and build the trainer over the token table."""
    from .callbacks import Commit, Metrics, Moved, Stop

    strategy, machine = stage.strategy, this_machine()
    dtype = strategy.weights_dtype(machine.on_gpu)
    reference = None
    if stage.handover == "continue":
        model = _load_for_continuing(stage, source, dtype)
    else:
        model = source.load_model(dtype=dtype)
        if stage.task == "reward":
            model = with_reward_head(model, context.seed)
        model = strategy.prepare_base(model)
        model = strategy.wrap(model, stage.task, context.seed)
        if stage.has_reference and strategy.capabilities.makes_base:
            reference = source.load_model(dtype=dtype).requires_grad_(False)
    scratch = context.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    callbacks = (
        Metrics(context.events, stage.first_loss),
        Commit(scratch, context.folder / "checkpoints"),
        Stop(context.stop),
        Moved(model, context.events),
    )
    dataset = stage.trainer_table(tables.train).to_dataset(tables.key)
    trainer = make_trainer(
        stage.trainer, model=model, tokenizer=tokenizer, dataset=dataset, callbacks=callbacks, reference=reference,
        arguments=trainer_arguments(
            stage, output_dir=scratch, seed=context.seed, rows=len(tables.train),
            checkpointing=wants_checkpointing(stage, source, longest_row(tables, stage)),
        ),
        keep_adapter_copy=stage.handover == "continue",
    )  # fmt: skip
    return _Session(model, reference, trainer)


def _load_for_continuing(stage: TrainingStage, source: ModelRef, dtype: Any) -> Any:
    """The last adapter, live and trainable, on the base that it was trained on."""
    from peft import PeftModel

    source.verify()
    model = stands_on(stage, source).load_model(dtype=dtype)
    model = stage.strategy.prepare_base(model)
    return PeftModel.from_pretrained(model, source.adapters[-1].folder, is_trainable=True)


def _fit(trainer: Any, context: StageContext, checkpoint: Path | None) -> None:
    """Train to the end; raises RunInterrupted after a signal, with a checkpoint of the last step."""
    from transformers import set_seed

    set_seed(context.seed)  # measuring must not change what training draws
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if isinstance(error, DiskSpaceError) or not is_disk_full(error, context.folder):
            raise
        shutil.rmtree(context.folder / "scratch", ignore_errors=True)
        kept = newest_whole_checkpoint(context.folder / "checkpoints")
        raise DiskSpaceError(
            f"Stage {context.name}: the disk is full. "
            + (f"The last good state is {kept[0]}; " if kept else "No checkpoint was written yet; ")
            + "free some space and run the same command again to go on."
        ) from error
    context.stop.raise_if_requested(f"in stage {context.name} after step {trainer.state.global_step}")


def _before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_before": value for name, value in before.items()} | {
        f"{name}_after": value for name, value in after.items()
    }


def _closing_numbers(state: Any) -> dict[str, float]:
    """Mean training loss over the logged steps, and their count, whatever was interrupted in between."""
    losses = {line["step"]: float(line["loss"]) for line in state.log_history if "loss" in line}
    mean = {"train_loss": sum(losses.values()) / len(losses)} if losses else {}
    return {"steps": float(state.global_step)} | mean
