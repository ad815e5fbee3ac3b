"""What `explain()`, `plan()` and `posttrain show` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .settings import Setting
from .stage import StagePlan

if TYPE_CHECKING:
    from .run import Run, StageRecord


def print_settings(stages: Sequence[tuple[str, str, Sequence[Setting]]]) -> None:
    """Print one table per stage: setting, value, where it came from."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, kind, settings in stages:
        table = Table("setting", "value", "from", title=f"{title} ({kind})", title_justify="left")
        for setting in settings:
            table.add_row(setting.name, str(setting.value), setting.source)
        console.print(table, markup=False)


def print_plan(titles: Sequence[str], plans: Sequence[StagePlan | None]) -> None:
    """Print what each stage will cost, one column a stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *titles, title="Plan (estimates; no weights were loaded)", title_justify="left")
    for label, show in _ROWS:
        table.add_row(label, *[show(plan) if plan else "-" for plan in plans])
    console = Console()
    console.print(table)
    for title, plan in zip(titles, plans, strict=True):
        if plan and plan.memory_parts:
            parts = ", ".join(f"{part} {_bytes(n)}" for part, n in plan.memory_parts.items() if n >= 1e6)
            console.print(f"{title}: at the peak {parts}", markup=False)
        for note in plan.notes if plan else ():
            console.print(f"{title}: {note}", markup=False)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


_ROWS: tuple[tuple[str, Any], ...] = (
    ("rows read", lambda p: f"{p.rows_read:,}"),
    ("rows trained on", lambda p: f"{p.rows:,}"),
    ("rows held out", lambda p: f"{p.held_out:,}"),
    ("rows cut / dropped", lambda p: f"{p.cut:,} / {p.dropped:,}"),
    ("tokens", lambda p: f"{p.tokens:,}"),
    ("of them trained", lambda p: f"{p.trained_share:.0%}" if p.trained_share else "-"),
    ("optimizer steps", lambda p: f"{p.steps:,}"),
    ("trainable parameters", lambda p: f"{p.trainable_parameters:,} of {p.total_parameters:,}"),
    ("peak memory, about", lambda p: _bytes(p.memory_bytes)),
    ("disk, about", lambda p: _bytes(p.disk_bytes)),
)


def print_summary(run: Run) -> None:
    """Print each stage's held-out numbers before and after, what became of its rows, and what was proven."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("stage", "metric", "before", "after", "seconds", title="Before and after, on held-out rows")
    for record in run:
        for place, (name, before, after) in enumerate(_changes(record)):
            first = (record.name, f"{record.seconds:.0f}") if place == 0 else ("", "")
            table.add_row(first[0], name, f"{before:.4f}", f"{after:.4f}", first[1])
    console.print(table)
    rows = Table("stage", "read", "trained on", "held out", "cut", "dropped", title="Rows")
    for record in run:
        counts = [f"{count:,}" for count in record.row_counts.values()]
        rows.add_row(record.name, *counts)
    console.print(rows)
    proofs = Table("stage", "proof", "measured", title="Proofs of the hand-overs")
    for record in run:
        for name, value in record.proofs.items():
            proofs.add_row(record.name, name.replace("_", " "), f"{value:.6g}")
    console.print(proofs)
    for record in run:
        for sample in record.samples:
            if "before" in sample:
                asked = " ".join(sample["prompt"].split())[-120:]
                for line in (f"\n{record.name}, asked: {asked}", f"  before: {sample['before'].strip()}",
                             f"  after:  {sample['answer'].strip()}"):  # fmt: skip
                    console.print(line, markup=False, highlight=False)
    console.print(f"Run folder: {run.folder}", markup=False, highlight=False, soft_wrap=True)


def _changes(record: StageRecord) -> Iterator[tuple[str, Any, Any]]:
    found = [name.removesuffix("_before") for name in record.metrics if name.endswith("_before")]
    for name in found:
        yield name, record.metrics[f"{name}_before"], record.metrics[f"{name}_after"]
    if not found:
        yield "none (no held-out rows)", float("nan"), float("nan")
