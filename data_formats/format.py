"""What a data format is: how to recognise its rows, and how to turn one row into an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .examples import Example, Kind, Row


class BadRow(Exception):
    """One fault in one row. The reader of the whole source collects them into a RowError."""

    def __init__(self, field: str, fault: str, reason: str) -> None:
        super().__init__(field, fault, reason)
        self.field = field  # "messages[2].content"
        self.fault = fault  # the kind of fault, for counting: "wrong type"
        self.reason = reason  # "is null and must be text"


@dataclass(frozen=True)
class DataFormat:
    """To add one: a module with a DataFormat, and its name in `registry.FORMATS`."""

    name: str
    kind: Kind
    shape: str  # how a row looks, for the error that lists what a kind takes
    columns: tuple[str, ...]  # every field that `read` uses
    recognise: Callable[[Row], bool]  # looks at field names, so that wrong values are reported row by row
    why: str  # what `recognise` saw, as a sentence part
    read: Callable[[Row, str], Example]  # (row, place); raises BadRow
    keeps_columns: bool = False  # the columns that it does not read stay with the example
