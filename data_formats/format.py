"""What a data format is: how to recognise its rows, how to turn one row into an example, and how to judge answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .examples import Example, Kind, Row

if TYPE_CHECKING:
    from .scoring.metrics import Answer

Gold = Mapping[str, Any]  # JSON, made by the format for its own metric
# Numbers by name; what is no number, such as a table of confusions, is kept beside the answers.
Metric = Callable[[Sequence[Gold], Sequence["Answer"]], Mapping[str, Any]]


class BadRow(Exception):
    """One fault in one row. The reader of the whole source collects them into a RowError."""

    def __init__(self, field: str, fault: str, reason: str) -> None:
        super().__init__(field, fault, reason)
        self.field = field  # "messages[2].content"
        self.fault = fault  # the kind of fault, for counting: "wrong type"
        self.reason = reason  # "is null and must be text"


@dataclass(frozen=True)
class DataFormat:
    """One kind of row. `register` makes it known; reading a row is also its validation.

    detect: looks at field names alone, so that wrong values are reported row by row.
    to_example: (row, place) to an example; raises BadRow with the field, what it holds and what it must be.
    metric: (golds, answers) to numbers, where a gold is what `to_example` put into Conversation.gold.
    prepare: a first pass over all rows, for what one row cannot know, such as the set of labels.
    expand: one row to several, each with its place.
    """

    name: str
    kind: Kind
    shape: str  # how a row looks, for the error that lists what a kind takes
    columns: tuple[str, ...]  # every field that `to_example` uses
    detect: Callable[[Row], bool]
    why: str  # what `detect` saw, as a sentence part
    to_example: Callable[[Row, str], Example]
    family: str = (
        ""  # the other name that `format=` takes: "chat" for alpaca, sharegpt, ...; "": its own name
    )
    metric: Metric | None = None
    prepare: Callable[[Iterable[Row]], DataFormat] | None = None
    expand: Callable[[Row, str], Iterable[tuple[Row, str]]] | None = None
    keeps_columns: bool = False  # the columns that it does not read stay with the example
    of_kinds: Mapping[Kind, DataFormat] = field(
        default_factory=dict
    )  # itself, for stages that take another kind
    options: Mapping[str, Any] = field(default_factory=dict)  # its settings as JSON: part of the table's key

    def is_called(self, name: str) -> bool:
        return name in (self.name, self.family)
