"""A stage that trains with one of TRL's trainers, or of transformers'."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from posttrain.errors import CorruptArtifactError, DiskSpaceError

from ..pipeline import StageContext
from ..pipeline.durable import is_disk_full, write_json
from .answers import ask
from .arguments import trainer_arguments
from .callbacks import STRATEGY_STATE, Commit, Hooks, Metrics, Moved, SaveEarly, Stop
from .checkpoints import newest_whole_checkpoint
from .handover import load_for_continuing, load_fresh
from .machine import this_machine
from .planner import wants_checkpointing
from .proofs import prove_reference
from .start_rows import RowsOfTable
from .token_tables import Tables
from .trl_api import make_trainer
from .trl_trainers import RowRollouts

if TYPE_CHECKING:
    from .intervals import Measured
    from .training_stage import TrainingStage


ANSWERS, BY_LABEL = "answers.json", "by_label.json"


@dataclass(frozen=True)
class Trained:
    """What a trainer is given."""

    model: Any  # wrapped by the stage's strategy
    reference: Any  # a frozen model, or None when the model's adapters carry the reference
    dataset: Any
    rollouts: RowRollouts | None = None  # of GRPO and RLOO


class TrlSession:
    """The model, wrapped by the stage's strategy, and TRL's trainer over the token table."""

    def __init__(
        self,
        stage: TrainingStage,
        context: StageContext,
        tables: Tables,
        tokenizer: Any,
        trained: Trained,
        metrics: Metrics,
    ) -> None:
        self._stage, self._context, self._tables = stage, context, tables
        self._tokenizer, self._pad_id = tokenizer, int(tokenizer.pad_token_id)
        self._measure: Callable[[Any], Measured] | None = None
        self._kept: dict[str, list[Mapping[str, Any]]] = {}  # by file: what was found before and after
        self.model, self._reference = trained.model, trained.reference
        scratch = context.folder / "scratch"
        if context.ranks.main:
            shutil.rmtree(scratch, ignore_errors=True)
        context.ranks.barrier()
        self.hooks = stage.strategy.hooks(self.model, stage.schedule(len(tables.train)))
        self._trainer = make_trainer(
            stage.trainer,
            model=self.model,
            tokenizer=tokenizer,
            dataset=trained.dataset,
            callbacks=(
                metrics,
                Hooks(self.hooks, scratch, context.ranks),
                Commit(scratch, context.folder / "checkpoints", context.ranks),
                SaveEarly(context.ranks, stage.checkpoint_border),
                Stop(context.stop, stage.checkpoint_border),
                Moved(self.model, context.events, context.ranks, trained.rollouts),
            ),
            reference=self._reference,
            arguments=trainer_arguments(
                stage,
                output_dir=scratch,
                seed=context.seed,
                rows=len(tables.train),
                checkpointing=wants_checkpointing(
                    stage,
                    context.inputs["policy"],
                    stage.longest_sequence(tables.report.length_max),
                    tables.labels,
                ),
            ),
            rate_factors=stage.strategy.rate_factors(self.model),
            keep_adapter_copy=stage.copies_reference,
            rollouts=trained.rollouts,
            sharding=context.ranks.sharding,
        )

    @classmethod
    def load(cls, stage: TrainingStage, context: StageContext, tables: Tables, tokenizer: Any) -> TrlSession:
        """With the model that the stage is given, made trainable."""
        model, reference = _load(stage, context, tables, int(tokenizer.pad_token_id))
        dataset = stage.trainer_table(tables.train).to_dataset(tables.key)
        metrics = Metrics(context.events, stage.first_loss)
        return cls(stage, context, tables, tokenizer, Trained(model, reference, dataset), metrics)

    @property
    def recomputes(self) -> bool:
        return bool(self._trainer.args.gradient_checkpointing)

    def prove_start(self) -> None:
        if rows := self._stage.reference_rows(self._tables.train):
            difference = prove_reference(self.model, self._reference, rows, self._pad_id)
            self._context.events.prove("reference_difference_nats", difference)

    def measure(self) -> Sequence[Measured]:
        if self._tables.held_out is None:
            return []
        if self._measure is None:
            found, self._measure = self._stage.measuring(self.model, self._tables.held_out, self._pad_id)
        else:
            found = self._measure(self.model)
        if found.details:
            self._keep(BY_LABEL, {**found.numbers, **found.details})
        if not self._stage.answers_questions or not self._tables.questions:
            return [found]
        formats = self._stage.request.formats
        answered = ask(self.model, self._tokenizer, self._tables.questions, formats)
        self._keep(ANSWERS, answered.as_dict())
        return [found, *answered.measured]

    def _keep(self, name: str, found: Mapping[str, Any]) -> None:
        """Write into the stage's folder what people may want to read beside the numbers."""
        self._kept.setdefault(name, []).append(found)
        if self._context.ranks.main:
            both = dict(zip(("before", "after"), self._kept[name], strict=False))
            write_json(self._context.folder / name, both)

    def fit(self, checkpoint: Path | None) -> None:
        from safetensors.torch import load_file
        from transformers import set_seed

        context = self._context
        set_seed(context.seed)  # measuring must not change what training draws
        if checkpoint is not None and (checkpoint / STRATEGY_STATE).is_file():
            self.hooks.restore(load_file(checkpoint / STRATEGY_STATE))
        try:
            self._trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UnpicklingError as error:  # torch reads the optimizer's file with weights_only=True
            raise CorruptArtifactError(
                f"The checkpoint {checkpoint} holds more than numbers, and nothing of that was run; it was not written "
                "here as it is, so delete it to go on from the one before."
            ) from error
        except Exception as error:
            if isinstance(error, DiskSpaceError) or not is_disk_full(error, context.folder):
                raise
            raise disk_full(context) from error
        step = self._trainer.state.global_step
        context.stop.raise_if_requested(f"in stage {context.name} after step {step}")

    def closing_numbers(self) -> Mapping[str, float]:
        """Mean training loss over the logged steps, and their count, whatever was interrupted in between."""
        state = self._trainer.state
        losses = {line["step"]: float(line["loss"]) for line in state.log_history if "loss" in line}
        mean = {"train_loss": sum(losses.values()) / len(losses)} if losses else {}
        return {"steps": float(state.global_step), **mean, **self.hooks.numbers()}


def _load(stage: TrainingStage, context: StageContext, tables: Tables, pad_id: int) -> tuple[Any, Any]:
    """(the model to train, its reference where that is a model of its own)."""
    source, strategy = context.inputs["policy"], stage.strategy
    dtype = strategy.weights_dtype(this_machine().on_gpu)
    if stage.handover == "continue":
        return load_for_continuing(stage, source, dtype), None
    rows = RowsOfTable(tables.train, stage.task, stage.batch_size, pad_id, context.seed)
    model = load_fresh(stage, source, dtype, context.seed, rows, tables.labels)
    copied = stage.has_reference and strategy.capabilities.makes_base
    return model, source.load_model(dtype=dtype).requires_grad_(False) if copied else None


def disk_full(context: StageContext) -> DiskSpaceError:
    """What to say when the disk filled up in the middle; makes room for the message to be of use."""
    shutil.rmtree(context.folder / "scratch", ignore_errors=True)
    kept = newest_whole_checkpoint(context.folder / "checkpoints")
    return DiskSpaceError(
        f"Stage {context.name}: the disk is full. "
        + (f"The last good state is {kept[0]}; " if kept else "No checkpoint was written yet; ")
        + "free some space and run the same command again to go on."
    )
