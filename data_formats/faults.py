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

    kinds: Counter[str] = field(default_factory=Counter)
    named: list[tuple[str, str, str]] = field(default_factory=list)  # (place, field, reason)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)  # of those, by field and reason

    @property
    def lines(self) -> list[str]:
        return [
            f"{place} {field}: {reason}" if field else f"{place}: {reason}"
            for place, field, reason in self.named[:SHOWN_FAULTS]
        ]

    @property
    def count(self) -> int:
        return self.kinds.total()

    def by_kind(self) -> str:
        return ", ".join(f"{kind} {number}" for kind, number in self.kinds.most_common())

    def add(self, place: str, bad: BadRow) -> None:
        self.kinds[bad.fault] += 1
        self._name(place, bad.field, bad.reason)

    def add_all(self, others: Faults) -> None:
        """Those of the rows behind these, as if they had been added one by one."""
        self.kinds.update(others.kinds)
        for one in others.named:
            self._name(*one)

    def _name(self, place: str, field: str, reason: str) -> None:
        # Twice what is shown: faults before these can rule out one of these lines for each line that they have.
        if len(self.named) < 2 * SHOWN_FAULTS and self.alike[field, reason] < SHOWN_ALIKE:
            self.alike[field, reason] += 1
            self.named.append((place, field, reason))

    def raise_if_any(self, rows: int) -> None:
        """`rows`: all that were read, good and bad."""
        count = self.count
        if not count:
            return
        lines = self.lines
        more = [f"... and {count - len(lines)} more"] if count > len(lines) else []
        named = "1 row" if count == 1 else f"{count} rows"
        raise RowError("\n".join([f"{named} of {rows} cannot be read ({self.by_kind()}):", *lines, *more]))
