"""What `explain()`, `plan()` and `posttrain show` print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .run import REPORT_FILE
from .settings import Setting
from .stage import StagePlan

if TYPE_CHECKING:
    from rich.table import Table

    from .interval import Interval
    from .run import Change, Run, StageRecord


def printable(text: str) -> str:
    """What models, files and folders say cannot steer the terminal: control characters are shown as signs, but for ends
    of lines.
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 32 else "\ufffd"


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
    for table in (_changes_table(run), _moved_table(run), _values_table(run)):
        if table.row_count:
            console.print(table)
    rows = Table("stage", "seconds", "read", "trained on", "held out", "cut", "dropped", title="Rows")
    for record in run:
        counts = [f"{count:,}" for count in record.row_counts.values()]
        rows.add_row(record.name, f"{record.seconds:.0f}", *counts)
    if rows.row_count:
        console.print(rows)
    for record in run:
        if record.rolled_back:
            console.print(f"{record.name} was rolled back: {printable(record.rolled_back)}", markup=False)
    proofs = Table("stage", "proof", "measured", title="Proofs of the hand-overs")
    for record in run:
        for name, value in record.proofs.items():
            proofs.add_row(record.name, name.replace("_", " "), f"{value:.6g}")
    if proofs.row_count:
        console.print(proofs)
    for record in run:
        for sample in record.samples:
            if "before" in sample:
                for line in (f"\n{record.name}, asked: {_asked(sample['prompt'])}", f"  before: {_said(sample['before'])}",
                             f"  after:  {_said(sample['answer'])}"):  # fmt: skip
                    console.print(printable(line), markup=False, highlight=False)
    places = {"Run folder": run.folder, "Report": run.folder / REPORT_FILE}
    for name, place in places.items():
        if place.exists():
            console.print(printable(f"{name}: {place}"), markup=False, highlight=False, soft_wrap=True)


# What templates put around turns: ChatML's and Llama's <|...|>, Gemma's <start_of_turn>, Mistral's [INST], <s>.
_MARK = re.compile(r"<\|[^<>|]*\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>")
_ROLE = re.compile(r"(?:system|user|assistant|model|tool)\s*(?:\n|$)")
_SHOWN = 120  # characters


def _asked(prompt: str) -> str:
    """The last turn of a rendered prompt, or the end of a document, on one line."""
    turns = [_ROLE.sub("", part.strip(), count=1).strip() for part in _MARK.split(prompt)]
    last = " ".join(next((turn for turn in reversed(turns) if turn), "").split())
    return last if len(last) <= _SHOWN else f"... {last[-_SHOWN:].partition(' ')[2]}"


def _said(answer: str) -> str:
    return answer.strip() or ("(blanks alone)" if answer else "(nothing)")


def _changes_table(run: Run) -> Table:
    from rich.table import Table

    table = Table(title="Before and after, on held-out rows")
    for name in ("stage", "metric", "before", "after", "change, 95 %"):
        table.add_column(name, no_wrap=name != "metric")
    for record in run:
        for place, row in enumerate(_rows_of(record)):
            table.add_row(record.name if place == 0 else "", *row)
    return table


def _moved_table(run: Run) -> Table:
    """How far policies are from where they came from."""
    from rich.table import Table

    table = Table(
        "stage", "on", "KL from input", "from base", "same token as input", title="Moved, in nats per token"
    )
    for record in run:
        for rows in _MOVED_ON:
            if f"{rows}_kl_input" in record.metrics:
                shown = [
                    f"{record.metrics[f'{rows}_{name}']:{form}}"
                    for name, form in (("kl_input", ".4f"), ("kl_base", ".4f"), ("agreement_input", ".1%"))
                ]
                table.add_row(record.name, _MOVED_ON[rows], *shown)
    return table


_MOVED_ON = {"neutral": "neutral text", "own": "own held-out rows"}


def _values_table(run: Run) -> Table:
    """What was measured once."""
    from rich.table import Table

    table = Table("stage", "metric", "value", "95 %", "rows", title="Measured")
    for record in run:
        changed = {f"{one.name}_{when}" for one in record.changes for when in ("before", "after", "change")}
        for name, interval in record.intervals.items():
            if name not in changed and "_kl_" not in name and "_agreement_" not in name:
                shown = name.replace("_", " "), _number(record.metrics[name])
                table.add_row(record.name, *shown, _bounds(interval), str(interval.rows))
    return table


def _rows_of(record: StageRecord) -> Iterator[tuple[str, str, str, str]]:
    for one in record.changes:
        yield one.name.replace("_", " "), _number(one.before), _number(one.after), _sureness(one)
    if not record.changes and not record.intervals:
        yield "none (no held-out rows)", "-", "-", ""


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def _sureness(change: Change) -> str:
    if change.interval is None:
        return ""
    return "inside the noise" if change.is_noise else _bounds(change.interval, "+")


def _bounds(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.3g} to {interval.high:{sign}.3g}"
