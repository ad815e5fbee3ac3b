"""`posttrain plan`: the ways to train a model in a memory budget, and which one `auto` takes."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from posttrain import stages
from posttrain.errors import SettingError
from posttrain.pipeline.quiet import quiet_libraries
from posttrain.stages.planner.auto import Choice, choices, find_shape, read_memory

STAGES = ("SFT", "CPT", "RewardModel", "DPO", "KTO", "ORPO", "PPO", "GRPO", "RLOO")


def print_choices(memory: str, model: str, stage: str, max_length: int) -> bool:
    """Print the table and the reason of the choice; returns whether there is one.

    Raises SettingError for a memory or a stage that is none, ModelError for a model that is not at hand.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    budget = read_memory(memory)
    if stage not in STAGES:
        near = get_close_matches(stage.lower(), [name.lower() for name in STAGES], n=1)
        hint = f" Did you mean {next(n for n in STAGES if n.lower() == near[0])}?" if near else ""
        raise SettingError(f"--stage {stage}: there is no such stage.{hint} There are: {', '.join(STAGES)}.")
    with quiet_libraries():
        rows = choices(getattr(stages, stage)(max_length=max_length), find_shape(model), budget)
    table = Table(
        "", "strategy", "re-\ncompute", "batch x\naccum.", "GB,\nabout", "", box=SIMPLE_HEAD, padding=0,
        collapse_padding=True,
    )  # fmt: skip
    for row in rows:
        table.add_row(*_cells(row))
    console = Console(highlight=False)
    name = Path(model).name if Path(model).is_dir() else model
    console.print(f"{stage} of {name}, rows of {max_length} tokens, in {memory}", markup=False)
    console.print(table)
    picked = next((row for row in rows if row.chosen), None)
    if picked is None:
        console.print(
            f"Nothing fits: the least needs {rows[-1].bytes / 2**30:.1f} GB. Take a smaller model, a shorter --max-length, "
            "or more memory.",
            markup=False,
        )
        return False
    console.print(f"auto({memory!r}) takes {picked.stage.strategy}: {picked.why}.", markup=False)
    console.print("Estimates for one GPU with bfloat16; a tenth is left for the driver.", markup=False)
    if picked.sixteen_bit_bytes > budget:
        console.print(
            f"They are of training: loading and merging a QLoRA base take its 16-bit weights, "
            f"{picked.sixteen_bit_bytes / 2**30:.1f} GB, which this GPU does not hold (docs/memory.md).",
            markup=False,
        )
    return True


def _cells(row: Choice) -> list[str]:
    batch = f"{row.stage.batch_size} x {row.stage.gradient_accumulation}"
    verdict = "chosen" if row.chosen else "fits" if row.fits else "too large"
    return [
        ">" if row.chosen else "", str(row.stage.strategy), "yes" if row.recompute else "no", batch,
        f"{row.bytes / 2**30:.1f}", verdict,
    ]  # fmt: skip
