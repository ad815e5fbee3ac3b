"""From a source to checked examples: the format is detected once, then every row must be in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from posttrain.errors import DataFileError, RowError

from .examples import Detection, Example, Examples, Kind, Pair, Source
from .fields import type_name, unread_columns
from .format import BadRow, DataFormat
from .reader import Record, name_of, records
from .registry import format_of

SHOWN_FAULTS = 20  # lines of bad rows in a message, and of them
SHOWN_ALIKE = 3  # with the same reason in the same field
IDENTICAL_PAIRS_ALLOWED = 0.2
SAMPLES = {
    "text": "text",
    "conversation": "chat",
    "preference": "preference",
    "unpaired": "preference",
    "prompt": "prompts",
}


def detect(source: Source, kind: Kind) -> Detection:
    """The format of a source, from its first record alone."""
    format_, _ = _open(source, kind)
    return Detection(format_.name, format_.why)


def read_examples(source: Source, kind: Kind) -> Examples:
    """All rows of a source as examples; raises a RowError that lists the rows that break the format."""
    format_, rows = _open(source, kind)
    faults, unread, examples = _Faults(), Counter[str](), list[Example]()
    for record in rows:
        faults.rows += 1
        try:
            row = _check_row(record)
            if not format_.keeps_columns:
                unread.update(unread_columns(row, format_))
            examples.append(format_.read(row, record.place))
            _check_margin(examples[-1], examples[0])
        except BadRow as bad:
            faults.add(record.place, bad)
    faults.raise_if_any()
    _refuse_identical_pairs(examples)
    notes = [f"columns not read: {', '.join(sorted(map(str, unread)))}"] if unread else []
    detection = Detection(format_.name, format_.why)
    return Examples(tuple(examples), detection, name_of(source), kind, tuple(notes))


def sample(kind: Kind, *, held_out: bool = False) -> Path:
    """The sample file of a kind that comes with the package."""
    return Path(__file__).parent / "samples" / f"{SAMPLES[kind]}{'_heldout' if held_out else ''}.jsonl"


def _open(source: Source, kind: Kind) -> tuple[DataFormat, Iterator[Record]]:
    rows = records(source)
    first = next(rows, None)
    if first is None:
        raise DataFileError(f"{name_of(source)}: there is no record in it; it is empty.")
    return format_of(first.value, kind, first.place), chain([first], rows)


def _check_row(record: Record) -> Mapping[str, object]:
    if not isinstance(record.value, Mapping):
        raise BadRow("", "wrong type", f"the record is {type_name(record.value)} and must be an object")
    return record.value


def _check_margin(example: Example, first: Example) -> None:
    if not (isinstance(example, Pair) and isinstance(first, Pair)):
        return
    if (example.margin is None) != (first.margin is None):
        has, has_not = ("is missing", "has one") if example.margin is None else ("is given", "has none")
        raise BadRow(
            "margin", "missing field", f"{has} and {first.place} {has_not}; all rows need it, or none"
        )


def _refuse_identical_pairs(examples: list[Example]) -> None:
    same = [pair.place for pair in examples if isinstance(pair, Pair) and pair.chosen == pair.rejected]
    if len(same) > IDENTICAL_PAIRS_ALLOWED * len(examples):
        raise RowError(
            f"{len(same)} of {len(examples)} pairs have chosen equal to rejected ({', '.join(same[:3])}...); such a pair teaches nothing, so check how the file was made."
        )


@dataclass
class _Faults:
    """Bad rows: the first of each reason in words, all of them counted by kind."""

    rows: int = 0  # all of them, good and bad
    lines: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)  # by field and reason

    def add(self, place: str, bad: BadRow) -> None:
        self.kinds[bad.fault] += 1
        self.alike[bad.field, bad.reason] += 1
        if len(self.lines) < SHOWN_FAULTS and self.alike[bad.field, bad.reason] <= SHOWN_ALIKE:
            self.lines.append(f"{place} {bad.field}: {bad.reason}" if bad.field else f"{place}: {bad.reason}")

    def raise_if_any(self) -> None:
        count = self.kinds.total()
        if not count:
            return
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.kinds.most_common())
        more = [f"... and {count - len(self.lines)} more"] if count > len(self.lines) else []
        rows = "1 row" if count == 1 else f"{count} rows"
        raise RowError("\n".join([f"{rows} of {self.rows} cannot be read ({kinds}):", *self.lines, *more]))
