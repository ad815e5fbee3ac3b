"""What a stage will cost, from configs and token counts alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posttrain.errors import SettingError, StrategyError

from ...pipeline import ModelRef, StagePlan
from ...pipeline.heads import Labels
from ..machine import this_machine
from ..token_tables import Request, Tables, load_tables
from .batches import Batch, largest_batch
from .fitting import refuse_what_cannot_fit
from .memory import comparison, estimate
from .sizes import Sizes, sizes_of

if TYPE_CHECKING:
    from ..training_stage import TrainingStage

_CHECKPOINTS = 3  # two kept and one being written
_TOKENIZER_BYTES = 5_000_000
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer")  # the first ones belong to padding


def plan_stage(stage: TrainingStage, start: ModelRef) -> StagePlan:
    """Counts of the real token tables, exact parameter counts, estimated memory and disk."""
    base, tables = start.find(), tables_of(stage.request, start)
    report, held = tables.report, tables.held_out_report
    _check_quantised(stage, base.config)
    sizes = sizes_of(stage, base.folder, tables.labels)
    stage.strategy.check_schedule(stage.schedule(len(tables.train)), sizes.layers)
    longest = stage.longest_sequence(report.length_max)
    _check_positions(stage, max(longest, stage.longest_sequence(held.length_max) if held else 0), base.config)
    notes = tables.lines()
    if not stage.strategy.capabilities.checkpointable and _is_tight(stage, start, longest, tables.labels):
        notes.append(
            f"a batch of the longest rows may not fit into memory, and {type(stage.strategy).__name__} cannot compute "
            "activations again to save some; lower batch_size or max_length"
        )
    checkpointing = wants_checkpointing(stage, start, longest, tables.labels)
    measured = len(tables.held_out) * longest if tables.held_out else 0
    largest = _largest(stage, tables, sizes, longest)
    memory = estimate(stage, sizes, longest, checkpointing, this_machine(), measured, largest)
    refuse_what_cannot_fit(stage, memory, base.folder, longest, measured, this_machine(), tables.labels)
    memory = max(memory, comparison(stage, sizes, this_machine()), key=lambda each: each.total)
    return StagePlan(
        rows_read=tables.rows_read,
        rows=len(tables.train),
        tokens=report.tokens,
        trained_share=report.trained_tokens / max(1, report.tokens),
        cut=report.rows_cut + (held.rows_cut if held else 0),
        dropped=report.rows_dropped + (held.rows_dropped if held else 0),
        held_out=len(tables.held_out) if tables.held_out else 0,
        steps=stage.steps(len(tables.train)),
        trainable_parameters=sizes.trainable,
        total_parameters=sizes.total,
        memory_bytes=memory.total,
        memory_parts=memory.as_dict(),
        disk_bytes=_disk_bytes(stage, sizes),
        notes=tuple(notes),
    )


def _largest(stage: TrainingStage, tables: Tables, sizes: Sizes, longest: int) -> Batch | None:
    """None where every batch is padded."""
    if this_machine().on_gpu or not sizes.packs or not len(tables.train):
        return None
    rows = stage.rows_at_once(longest, sizes.hidden, on_gpu=False)
    return largest_batch(stage, tables.train, rows, sizes.shares)


def tables_of(request: Request, start: ModelRef) -> Tables:
    """The token tables of some data with the tokenizer of a model."""
    from ...pipeline.base_models import shared_tokenizer

    base = start.find()
    return load_tables(request, lambda: shared_tokenizer(base.folder), base.tokenizer_fingerprint)


def _check_quantised(stage: TrainingStage, config: Mapping[str, Any]) -> None:
    """Raises StrategyError where a strategy would quantise what is quantised already."""
    already = config.get("quantization_config")
    if stage.strategy.base_format is not None and already is not None:
        raise StrategyError(
            f"Stage {stage.title}: {type(stage.strategy).__name__} quantises a model of 16 or 32 bits, and this one is "
            f"quantised already ({already.get('quant_method', 'unknown method')}); take the unquantised model."
        )


def _check_positions(stage: TrainingStage, longest: int, config: Mapping[str, Any]) -> None:
    """Raises SettingError when rows are longer than what the model was made for: it would train on noise, or fail."""
    text = config.get("text_config") or config
    positions = text.get("max_position_embeddings") or text.get("n_positions")
    if "relative_attention_num_buckets" in text:
        return  # T5's n_positions is what it was trained on, and no limit
    if text.get("model_type") in _PADDED_POSITIONS and positions:
        positions -= text.get("pad_token_id", 1) + 1
    if positions and longest > positions:
        if virtual := stage.strategy.virtual_tokens:
            raise SettingError(
                f"Stage {stage.title}: rows of {longest - virtual} tokens and the {virtual} of "
                f"{type(stage.strategy).__name__} in front of them are more than the model's {positions} positions; set "
                f"max_length={max(1, positions - virtual)} and say with overlong= what becomes of longer rows, or take fewer tokens."
            )
        raise SettingError(
            f"Stage {stage.title}: max_length={stage.max_length} lets rows of {longest} tokens in, and the model has "
            f"{positions} positions; set max_length={positions} and say with overlong= what becomes of longer rows."
        )


def wants_checkpointing(
    stage: TrainingStage, start: ModelRef, longest: int, labels: Labels | None = None
) -> bool:
    """Recompute activations (slower by a third and more) only where a batch of the longest rows would not fit.

    longest: tokens of the longest sequence. labels: of a classification head.
    """
    given = stage.trainer_args.get("gradient_checkpointing")
    if given is not None:
        return bool(given)
    return stage.strategy.capabilities.checkpointable and _is_tight(stage, start, longest, labels)


def _is_tight(stage: TrainingStage, start: ModelRef, longest: int, labels: Labels | None) -> bool:
    """Whether a batch of the longest rows would leave less than a tenth of the memory free."""
    machine, sizes = this_machine(), sizes_of(stage, start.find().folder, labels)
    return estimate(stage, sizes, longest, False, machine).total > machine.usable_bytes


def _disk_bytes(stage: TrainingStage, sizes: Sizes) -> int:
    """Checkpoints kept while training, and what stays."""
    artifact = sizes.trainable * 4 + _TOKENIZER_BYTES
    return (artifact + sizes.trainable * 8) * _CHECKPOINTS + artifact
