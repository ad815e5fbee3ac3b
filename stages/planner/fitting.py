"""What to change in a stage that needs more memory than there is: the least harmful change that is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import NotEnoughMemoryError, PosttrainError

from ...pipeline import Ranks
from ..machine import Machine
from ..strategies import LoRA, QLoRA, Strategy
from .memory import MemoryEstimate, estimate
from .sizes import sizes_of

if TYPE_CHECKING:
    from ...pipeline.heads import Labels
    from ..training_stage import TrainingStage

_LEAST_LENGTH = 128
_LEAST_RANK = 2


def refuse_what_cannot_fit(
    stage: TrainingStage, needed: MemoryEstimate, source: Path | str, longest: int, held_out_tokens: float,
    machine: Machine, labels: Labels | None = None,
) -> None:  # fmt: skip
    """Raises NotEnoughMemoryError when the estimate is above the whole memory of the machine.

    source: the base's folder. longest: tokens of the longest sequence. held_out_tokens: of all held-out rows. labels:
    of a classification head.
    """
    if needed.total <= machine.memory_bytes:
        return
    change = nearest_change(stage, source, longest, held_out_tokens, machine, labels)
    advice = (
        f"set {change[0]}, which needs {change[1] / 1e9:.1f} GB"
        if change
        else "no setting makes it fit: take a smaller model or a larger machine"
    )
    raise NotEnoughMemoryError(
        f"Stage {stage.title} needs about {needed.total / 1e9:.1f} GB and this {machine.name} has "
        f"{machine.memory_bytes / 1e9:.1f} GB; {advice}."
    )


def nearest_change(
    stage: TrainingStage,
    source: Path | str,
    longest: int,
    held_out_tokens: float,
    machine: Machine,
    labels: Labels | None = None,
) -> tuple[str, int] | None:
    """(the settings to change, the bytes needed then), or None where no change is enough.

    Tried one after the other, each kept while the next is added: recomputing activations, a smaller batch with as
    much more accumulation, an adapter instead of full tuning, 4-bit weights, shorter rows, a smaller rank. What turns
    out not to be needed is left out again.
    """

    def needs(changes: list[dict[str, Any]]) -> int | None:
        try:
            changed = _with(stage, changes)
            if Ranks.of_environment().sharding is not None:
                changed.check_sharded()
            length = min(longest, changed.longest_sequence(longest))
            given = changed.trainer_args.get("gradient_checkpointing")
            # Left open, it is on where it is needed.
            checkpointing = changed.strategy.capabilities.checkpointable if given is None else bool(given)
            sizes = sizes_of(changed, source, labels)
            return estimate(changed, sizes, length, checkpointing, machine, held_out_tokens).total
        except PosttrainError:  # the stage cannot have this setting
            return None

    kept: list[dict[str, Any]] = []
    for changes in _ladder(stage, longest):
        for change in changes:
            tried = [one for one in kept if set(one) != set(change)] + [change]
            if (found := needs(tried)) is None:
                continue
            kept = tried
            if found <= machine.usable_bytes:
                for one in list(kept):
                    without = [other for other in kept if other is not one]
                    less = needs(without) if without else None
                    if less is not None and less <= machine.usable_bytes:
                        kept, found = without, less
                return ", ".join(_written(k, v) for each in kept for k, v in each.items()), found
    return None


def _with(stage: TrainingStage, changes: list[dict[str, Any]]) -> TrainingStage:
    return replace(stage, **{name: value for change in changes for name, value in change.items()})


def _ladder(stage: TrainingStage, longest: int) -> Iterator[list[dict[str, Any]]]:
    """Kinds of changes from the least harmful on; of each kind, its values from the least harmful on."""
    checkpointable = stage.strategy.capabilities.checkpointable
    if stage.trainer_args.get("gradient_checkpointing") is False and checkpointable:
        yield [{"trainer_args": {**stage.trainer_args, "gradient_checkpointing": True}}]
    yield [
        {"batch_size": stage.batch_size // n, "gradient_accumulation": stage.gradient_accumulation * n}
        for n in range(2, stage.batch_size + 1)
        if stage.batch_size % n == 0
    ]
    strategy = stage.strategy
    if strategy.capabilities.makes_base:
        strategy = LoRA()
        yield [{"strategy": strategy}]
    if type(strategy) is LoRA and strategy.init in (None, *QLoRA.inits):
        strategy = QLoRA(**{field.name: getattr(strategy, field.name) for field in fields(LoRA)})
        yield [{"strategy": strategy}]
    lengths = [length for length in (4096, 2048, 1024, 512, 256, 128) if _LEAST_LENGTH <= length < longest]
    yield [{"max_length": length} for length in lengths]
    if isinstance(strategy, LoRA):
        ranks = [r for r in (64, 32, 16, 8, 4, 2) if _LEAST_RANK <= r < strategy.r]
        yield [{"strategy": replace(strategy, r=r)} for r in ranks]


def _written(name: str, value: Any) -> str:
    return f"{name}={value}" if isinstance(value, Strategy) else f"{name}={value!r}"
