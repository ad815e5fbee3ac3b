"""Rows that cannot be read: counted, listed in an error, or written aside."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.errors import RowError

from .format import BadRow
from .readers.file_types import Broken

SHOWN_FAULTS = 20  # lines of bad rows in a message, and of them
SHOWN_ALIKE = 3  # with the same reason in the same field


def broken(value: Broken) -> BadRow:
    return BadRow("", "broken row", value.reason)


def quarantine(path: Path, place: str, bad: BadRow, row: Any) -> None:
    """Add to the file of the rows that were left out: {"place", "field", "reason", "row"}, one on each line."""
    kept = row.text if isinstance(row, Broken) else row
    line = {"place": place, "field": bad.field, "reason": bad.reason, "row": kept}
    try:
        text = json.dumps(line, ensure_ascii=True, default=str)  # half characters stay as they were written
    except (TypeError, ValueError, RecursionError):  # rows in memory hold anything
        text = json.dumps({**line, "row": None})
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


@dataclass
class Faults:
    """Bad rows: the first of each reason in words, all of them counted by kind."""

    lines: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)  # by field and reason

    @property
    def count(self) -> int:
        return self.kinds.total()

    def by_kind(self) -> str:
        return ", ".join(f"{kind} {number}" for kind, number in self.kinds.most_common())

    def add(self, place: str, bad: BadRow) -> None:
        self.kinds[bad.fault] += 1
        if len(self.lines) >= SHOWN_FAULTS:
            return
        self.alike[bad.field, bad.reason] += 1
        if self.alike[bad.field, bad.reason] <= SHOWN_ALIKE:
            self.lines.append(f"{place} {bad.field}: {bad.reason}" if bad.field else f"{place}: {bad.reason}")

    def raise_if_any(self, rows: int) -> None:
        """`rows`: all that were read, good and bad."""
        count = self.count
        if not count:
            return
        more = [f"... and {count - len(self.lines)} more"] if count > len(self.lines) else []
        named = "1 row" if count == 1 else f"{count} rows"
        raise RowError(
            "\n".join([f"{named} of {rows} cannot be read ({self.by_kind()}):", *self.lines, *more])
        )
