"""Strategy, batch and recomputation for a model and a memory budget, chosen by the planner's estimate.

>>> SFT(auto("8GB"), data="chat.jsonl")     # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import ModelError, NotEnoughMemoryError, SettingError

from ..strategies import Capabilities, Full, LoRA, QLoRA, Strategy, Task
from .known_sizes import SHAPES

if TYPE_CHECKING:
    from ..machine import Machine
    from ..training_stage import TrainingStage

_ROOM = 0.8  # Full is only chosen where it leaves a fifth: it is the first to be hit by a longer row
_GB = 2**30  # a card of "24GB" has 24 GiB
# The field's presets for cards of up to so many bytes; they hold with a 4-bit base only.
_PRESETS = (
    (10 * _GB, QLoRA(r=4, alpha=16, dropout=0.05)),
    (16 * _GB, QLoRA(r=8, alpha=32, dropout=0.05)),
    (float("inf"), QLoRA(r=16, alpha=32, dropout=0.05)),
)
_LEAST = QLoRA(r=2, alpha=8, dropout=0.05)


@dataclass(frozen=True)
class Auto(Strategy):
    """Stands for the strategy that `auto` will choose once the Pipeline knows the model."""

    memory: int  # bytes

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True
    )
    learning_rate_factor: ClassVar[float] = 10.0

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        raise SettingError(
            "auto(...) is resolved when a Pipeline is built, which knows the model; put the stage into a Pipeline first."
        )


@dataclass(frozen=True)
class Choice:
    """One row of the table: a way to train, and what it needs."""

    stage: TrainingStage
    recompute: bool  # gradient checkpointing
    bytes: int  # estimated
    fits: bool
    why: str
    sixteen_bit_bytes: int  # of a QLoRA's base while it is loaded and merged; else 0
    chosen: bool = False


def auto(memory: str) -> Auto:
    """A strategy that is chosen for the pipeline's model and the memory of a GPU, such as "8GB" or "24GiB".

    memory: an amount with its unit; GB and GiB are both 2^30 bytes, as on the label of a card.

    The Pipeline replaces it, when it is built, by the first of these that fits into nine tenths of the memory: Full,
    LoRA, LoRA with recomputed activations, QLoRA, QLoRA with recomputed activations, QLoRA of a smaller rank. The
    stage's batch_size is lowered and its gradient_accumulation raised by as much, unless one of them was given.
    What was chosen, and why, stands in explain(). The estimate is for a GPU with bfloat16, whatever the machine.

    Raises SettingError for a text that is no amount of memory; the Pipeline raises NotEnoughMemoryError where nothing
    fits.
    """
    return Auto(read_memory(memory))


def read_memory(text: str) -> int:
    """Bytes of "8GB", "8 GB", "7.5GiB". Raises SettingError for anything else, a number without a unit too."""
    number = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*Gi?B\s*", text, re.IGNORECASE) if isinstance(text, str) else None
    )
    if number is None or float(number[1]) <= 0:
        raise SettingError(
            f"memory={text!r}: memory must be a number with its unit, such as '8GB' or '24GiB'."
        )
    return int(float(number[1]) * _GB)


def resolve(stage: TrainingStage, source: Path | str) -> TrainingStage:
    """The stage with what was chosen in the place of auto(...). source: the base's folder.

    Raises NotEnoughMemoryError when nothing fits.
    """
    assert isinstance(stage.strategy, Auto)
    memory = stage.strategy.memory
    rows = choices(stage, source, memory)
    picked = next((row for row in rows if row.chosen), None)
    if picked is None:
        raise NotEnoughMemoryError(f"Stage {stage.title}: {_nothing_fits(rows[-1], memory)}")
    object.__setattr__(picked.stage, "chosen", {
        name: f"auto({memory / _GB:g}GB): {picked.why}"
        for name in ("strategy", "batch_size", "gradient_accumulation", "gradient_checkpointing")
        if name == "strategy" or _value(picked.stage, name) != _value(stage, name)
    })  # fmt: skip
    return picked.stage


def choices(stage: TrainingStage, source: Path | str, memory: int) -> list[Choice]:
    """The table for a stage, whose own strategy does not count: one row for each way, at most one of them chosen.

    source: a folder with a config.json, or a size such as "7B". memory: bytes of a GPU.
    """
    from ..machine import Machine

    machine = Machine(on_gpu=True, bf16=True, memory_bytes=memory)
    (preset,) = [preset for most, preset in _PRESETS if memory <= most][:1]
    given = stage.trainer_args.get("gradient_checkpointing")
    either = (False, True) if given is None else (bool(given),)
    # From what loses least: recomputing costs a third more time, 4 bits cost precision, a smaller rank capacity.
    ways = [(strategy, recompute) for strategy in (Full(), LoRA(), preset) for recompute in either]
    rows = [_row(stage, strategy, recompute, source, machine) for strategy, recompute in ways]
    for smaller in (*(each for _, each in reversed(_PRESETS) if each.r < preset.r), _LEAST):
        if any(row.fits for row in rows):
            break
        rows.append(_row(stage, smaller, either[-1], source, machine))
    picked = next((i for i, row in enumerate(rows) if row.fits), None)
    return [replace(row, chosen=True) if i == picked else row for i, row in enumerate(rows)]


def _row(
    stage: TrainingStage, strategy: Strategy, recompute: bool, source: Path | str, machine: Machine
) -> Choice:
    """The largest batch that fits, or what a single row would need."""
    from .memory import estimate
    from .sizes import sizes_of

    limit = machine.usable_bytes if not isinstance(strategy, Full) else int(_ROOM * machine.memory_bytes)
    arguments = {**stage.trainer_args, "gradient_checkpointing": recompute}
    for batch, accumulation in _batches(stage):
        tried = replace(
            stage,
            strategy=strategy,
            batch_size=batch,
            gradient_accumulation=accumulation,
            trainer_args=arguments,
        )
        length, sizes = tried.longest_sequence(tried.max_length), sizes_of(tried, source)
        needed = estimate(tried, sizes, length, recompute, machine).total
        whole = 2 * (sizes.total - sizes.trainable) * strategy.capabilities.four_bit_base
        if needed <= limit:
            return Choice(tried, recompute, needed, True, _why(strategy, recompute, needed, machine), whole)
    return Choice(tried, recompute, needed, False, f"needs {needed / _GB:.1f} GB of {limit / _GB:.1f}", whole)


def _batches(stage: TrainingStage) -> list[tuple[int, int]]:
    """(batch, accumulation), the product always the same; one pair where the user gave either."""
    defaults = {field.name: field.default for field in fields(stage) if field.default is not MISSING}
    given = stage.batch_size, stage.gradient_accumulation
    if given != (defaults["batch_size"], defaults["gradient_accumulation"]):
        return [given]
    return [(given[0] // n, n) for n in range(1, given[0] + 1) if given[0] % n == 0]


def _why(strategy: Strategy, recompute: bool, needed: int, machine: Machine) -> str:
    what = {Full: "every parameter can be trained", LoRA: "the 16-bit weights fit"}.get(
        type(strategy), "only 4-bit weights fit"
    )
    again = " with activations computed again" if recompute else ""
    return f"{what}{again}, {needed / _GB:.1f} GB of {machine.usable_bytes / _GB:.1f} usable"


def _nothing_fits(least: Choice, memory: int) -> str:
    return (
        f"nothing fits into {memory / _GB:g} GB; the least, {least.stage.strategy} with rows of "
        f"{least.stage.max_length} tokens one at a time, needs {least.bytes / _GB:.1f} GB, so take a smaller model, a "
        "shorter max_length, or more memory."
    )


def _value(stage: TrainingStage, name: str) -> Any:
    if name == "gradient_checkpointing":
        return stage.trainer_args.get(name)
    return getattr(stage, name)


def find_shape(model: str) -> Path | str:
    """What `choices` reads of a model that need not be here whole: a size, a folder with a config.json, a Hub id.

    Raises ModelError for anything else; nothing is downloaded.
    """
    sizes: Mapping[str, str] = {size.lower(): size for size in SHAPES}
    if model.lower() in sizes:
        return sizes[model.lower()]
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder.resolve()
        raise ModelError(
            f"The folder {folder} has no config.json; give a model's folder or a size such as 7B."
        )
    if model in ("embedded", "tiny-random"):
        from ...pipeline.base_models import find_base

        return find_base(model).folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached).parent
    raise ModelError(
        f"Model {model!r} is no folder, not in the local Hub cache, and no known size; give one of "
        f"{', '.join(SHAPES)}, or a folder with a config.json."
    )
