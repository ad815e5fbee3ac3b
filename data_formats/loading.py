"""From a source to checked examples: the format is found once, then every row must be in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain.errors import DataFileError, RowError, SettingError

from .data import Data
from .examples import WRITTEN_AS, Conversation, Detection, Example, Examples, Kind, Message, Pair, Row, Source
from .faults import SHOWN_FAULTS as SHOWN_FAULTS
from .faults import Faults as Faults
from .faults import broken, quarantine
from .fields import listed, type_name, unread_columns
from .format import BadRow, DataFormat
from .formats.registry import format_called, format_of
from .readers.file_types import Broken
from .readers.pieces import Piece, files_in_pieces
from .readers.sources import Record, name_of, records

IDENTICAL_PAIRS_ALLOWED = 0.2
SHOWN_IDENTICAL = 3
SAMPLES = {
    "text": "text",
    "conversation": "chat",
    "preference": "preference",
    "unpaired": "preference",
    "prompt": "prompts",
}


def detect(source: Source | Data, kind: Kind) -> Detection:
    """The format of a source, from its first record alone; of a mixture, those of all parts."""
    found = [_find_format(part, kind) for part in Data.of(source).parts()]
    names, whys = ([getattr(one, name) for one in found] for name in ("name", "why"))
    return Detection(", ".join(dict.fromkeys(names)), "; ".join(dict.fromkeys(whys)))


def read_examples(source: Source | Data, kind: Kind) -> Examples:
    """All rows of a source as examples in memory; raises a RowError that lists the rows that break the format."""
    readings = Reading.open_all(Data.of(source), kind)
    examples = tuple(chain.from_iterable(readings))
    notes = tuple(note for reading in readings for note in reading.notes())
    return Examples(examples, detection_of(readings), str(Data.of(source)), kind, notes)


def detection_of(readings: Iterable[Reading]) -> Detection:
    found = dict.fromkeys((reading.format.name, reading.format.why) for reading in readings)
    return Detection(", ".join(name for name, _ in found), "; ".join(why for _, why in found))


def sample(kind: Kind, *, held_out: bool = False) -> Path:
    """The sample file of a kind that comes with the package."""
    return Path(__file__).parent / "samples" / f"{SAMPLES[kind]}{'_heldout' if held_out else ''}.jsonl"


def _find_format(data: Data, kind: Kind) -> DataFormat:
    kind = WRITTEN_AS.get(kind, kind)
    if isinstance(data.format, DataFormat) and kind in data.format.of_kinds:
        return data.format.of_kinds[kind]
    if isinstance(data.format, DataFormat) and data.format.kind != kind:
        raise SettingError(
            f"Data format '{data.format.name}' is of kind '{data.format.kind}', and this stage takes kind '{kind}'."
        )
    first = _first_row(data)
    if isinstance(data.format, DataFormat):
        return data.format
    if data.format is not None:
        return format_called(data.format, first.value, kind, first.place)
    return format_of(first.value, kind, first.place)


def _first_row(data: Data) -> Record:
    """The first record with named fields; the first that can be read at all, where none has."""
    faults, other = Faults(), list[Record]()
    for record in islice(_records(data), data.limit):
        if isinstance(record.value, Mapping):
            return record
        if isinstance(record.value, Broken):
            faults.add(record.place, broken(record.value))
        elif not other:
            other.append(record)
    if other:
        return other[0]
    faults.raise_if_any(faults.count)
    raise DataFileError(f"{name_of(data.source)}: there is no record in it; it is empty.")


def _records(data: Data, piece: Piece | None = None) -> Iterator[Record]:
    """The records of one source, or of a piece of it, under the names that the formats know."""
    read = records(data.source) if piece is None else piece.records()
    return _renamed(read, data.columns, bool(piece and piece.number)) if data.columns else read


def _renamed(read: Iterator[Record], columns: Mapping[str, str], checked: bool = False) -> Iterator[Record]:
    """Raises DataFileError when the first row lacks a column; later rows may leave out what is optional."""
    ours = {theirs: ours for ours, theirs in columns.items()}
    free = [name for name in columns if name not in ours]
    for record in read:
        if not isinstance(record.value, Mapping):
            yield record
            continue
        if not checked:
            _check_columns(record, columns)
            checked = True
        for name in free:
            if name in record.value:
                raise DataFileError(
                    f"{record.place}: columns takes '{name}' from '{columns[name]}', and the row has a field '{name}', too; rename that one, or give it another name in columns."
                )
        row = {ours.get(name, name): value for name, value in record.value.items()}
        yield Record(record.place, row)


def _check_columns(record: Record, columns: Mapping[str, str]) -> None:
    for theirs in columns.values():
        if theirs not in record.value:
            near = get_close_matches(theirs, [str(name) for name in record.value], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the fields are {listed(record.value)}."
            raise DataFileError(
                f"{record.place}: columns names '{theirs}', which the row does not have; {hint}"
            )


@dataclass(frozen=True, slots=True)
class _Row:
    value: Any
    place: str
    bad: BadRow | None = None  # why it could not be expanded


def _rows(data: Data, format_: DataFormat, piece: Piece | None = None) -> Iterator[_Row]:
    """The rows of one source, up to its limit."""
    read, expand = _records(data, piece), format_.expand
    if expand is None:
        return islice((_Row(record.value, record.place) for record in read), data.limit)
    return islice(chain.from_iterable(_expanded(record, expand) for record in read), data.limit)


def _expanded(record: Record, expand: Callable[[Row, str], Iterable[tuple[Row, str]]]) -> Iterable[_Row]:
    """One record of a file may hold several rows."""
    if not isinstance(record.value, Mapping):
        return (_Row(record.value, record.place),)
    try:
        return [_Row(*row) for row in expand(record.value, record.place)]
    except BadRow as bad:
        return (_Row(record.value, record.place, bad),)


def _objects(data: Data, format_: DataFormat) -> Iterator[Row]:
    """The rows of one source that have named fields: what a format is prepared with."""
    return (row.value for row in _rows(data, format_) if isinstance(row.value, Mapping) and not row.bad)


def _prepared_for_all(parts: Sequence[Data], kind: Kind) -> list[DataFormat]:
    """The first part's format, with what is to be known about all parts in this format."""
    found = [_find_format(part, kind) for part in parts]
    if found[0].prepare is None:
        return []
    alike = [part for part, one in zip(parts, found, strict=True) if one.name == found[0].name]
    return [found[0].prepare(chain.from_iterable(_objects(part, found[0]) for part in alike))]


@dataclass
class Tally:
    """What was counted while rows went by."""

    rows: int = 0  # all of them, good and bad
    read: int = 0  # examples made
    with_system: int = 0  # dialogues that were given the system prompt
    identical: list[str] = field(default_factory=list)  # the first places of pairs with two equal answers
    identical_pairs: int = 0
    faults: Faults = field(default_factory=Faults)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """What was counted of the rows behind these."""
        self.rows += other.rows
        self.read += other.read
        self.with_system += other.with_system
        self.identical = [*self.identical, *other.identical][:SHOWN_IDENTICAL]
        self.identical_pairs += other.identical_pairs
        self.faults.add_all(other.faults)
        self.unread.update(other.unread)


@dataclass
class Reading:
    """One pass over the rows of one source; the counts are whole when it has been iterated to the end."""

    data: Data
    kind: Kind
    format: DataFormat
    bad_rows: Path | None = None  # where quarantined rows are written
    tally: Tally = field(default_factory=Tally)
    before: Reading | None = None  # the part of the mixture that is read before this one
    first: Example | None = None
    piece: Piece | None = None  # what is read of the source; None: all of it

    @classmethod
    def open_all(
        cls, data: Data, kind: Kind, bad_rows: Path | None = None, like: Sequence[DataFormat] = ()
    ) -> list[Reading]:
        """One for each part of a mixture: all have margins or none has, and classes are numbered in all alike."""
        parts = data.parts()
        if kind in ("labelled", "tagged") and not like:
            like = _prepared_for_all(parts, kind)
        readings: list[Reading] = []
        for part in parts:
            readings.append(cls.open(part, kind, bad_rows, like))
            readings[-1].before = readings[-2] if len(readings) > 1 else None
        return readings

    @classmethod
    def open(
        cls, data: Data, kind: Kind, bad_rows: Path | None = None, like: Sequence[DataFormat] = ()
    ) -> Reading:
        """`like`: the prepared formats of the training rows, for rows that are measured with the same labels."""
        format_ = _find_format(data, kind)
        format_ = next((known for known in like if known.name == format_.name), format_)
        if format_.prepare is not None:
            format_ = format_.prepare(_objects(data, format_))
        return cls(data, kind, format_, bad_rows)

    def __iter__(self) -> Iterator[Example]:
        """The examples of the whole source. Raises RowError at the end."""
        self.first = self.before.first if self.before else None
        yield from self.examples()
        self.close()

    def examples(self) -> Iterator[Example]:
        """The examples; after a bad row that is no quarantine's, none, but the other rows are still checked."""
        keeps_on = self.data.on_bad_rows == "quarantine"
        for row in _rows(self.data, self.format, self.piece):
            self.tally.rows += 1
            try:
                example = self._read(row)
            except BadRow as bad:
                self._refuse(row.place, bad, row.value)
                continue
            self.first = self.first or example
            if keeps_on or not self.tally.faults.count:
                self.tally.read += 1
                yield example

    def close(self) -> None:
        """Raises RowError where the source as a whole is refused."""
        self.raise_if_refused()
        self._refuse_identical_pairs()

    def files(self) -> list[Path]:
        """The files of a large source that can be read in pieces; none where a row needs those before it."""
        needs_all = self.data.limit is not None or self.format.prepare is not None
        return [] if needs_all else files_in_pieces(self.data.source)

    def look_ahead(self) -> None:
        """Find the first example, which says of pairs whether all need a margin."""
        self.first = self.before.first if self.before else None
        if self.kind == "preference" and self.first is None:
            ahead = replace(self, tally=Tally(), bad_rows=None)
            self.first = next(ahead._good(), None)

    def _good(self) -> Iterator[Example]:
        for row in _rows(self.data, self.format, self.piece):
            with suppress(BadRow):
                yield self._read(row)

    def of_piece(self, piece: Piece, bad_rows: Path | None) -> Reading:
        return replace(self, tally=Tally(), piece=piece, bad_rows=bad_rows)

    def refuse(self, example: Example, reason: str) -> None:
        """Of an example that the model's chat template or tokenizer cannot write."""
        self.tally.read -= 1
        fault = "not one answer" if self.kind == "exchange" else "chat template"
        bad = BadRow("", fault, reason.removeprefix(f"{example.place}: "))
        self._refuse(example.place, bad, asdict(example))

    def _refuse(self, place: str, bad: BadRow, row: Any) -> None:
        self.tally.faults.add(place, bad)
        if self.data.on_bad_rows == "quarantine" and self.bad_rows is not None:
            quarantine(self.bad_rows, place, bad, row)

    def raise_if_refused(self) -> None:
        """Raises RowError that lists what was refused so far, where nothing is put into quarantine."""
        if self.data.on_bad_rows == "error":
            self.tally.faults.raise_if_any(self.tally.rows)

    def _read(self, row: _Row) -> Example:
        value, place = row.value, row.place
        if row.bad is not None:
            raise row.bad
        if isinstance(value, Broken):
            raise broken(value)
        if not isinstance(value, Mapping):
            raise BadRow("", "wrong type", f"the record is {type_name(value)} and must be an object")
        if not self.format.keeps_columns and (unread := unread_columns(value, self.format)):
            self.tally.unread.update(unread)
        example = self.format.to_example(value, place)
        if isinstance(example, Pair):
            _check_margin(example, self.first)
            if example.chosen == example.rejected:
                self.tally.identical_pairs += 1
                self.tally.identical += [place] if len(self.tally.identical) < SHOWN_IDENTICAL else []
        return self._with_system(example) if self.data.system else example

    def _with_system(self, example: Any) -> Example:
        """The dialogue, or the prompt of whatever has one, with the system prompt that Data gives."""
        assert self.data.system is not None
        name = "messages" if isinstance(example, Conversation) else "prompt"
        turns = getattr(example, name, None)
        if not isinstance(turns, tuple):
            raise BadRow("", "no dialogue", "is no dialogue, so Data(system=...) has no place in it")
        if turns[0].role == "system":
            return example
        self.tally.with_system += 1
        return replace(example, **{name: (Message("system", self.data.system), *turns)})

    def _refuse_identical_pairs(self) -> None:
        if self.tally.identical_pairs > IDENTICAL_PAIRS_ALLOWED * self.tally.read:
            raise RowError(
                f"{self.tally.identical_pairs} of {self.tally.read} pairs have chosen equal to rejected ({', '.join(self.tally.identical)}...); such a pair teaches nothing, so check how the file was made."
            )

    def notes(self) -> list[str]:
        """What was in the source and is not used, and what was added."""
        name = name_of(self.data.source)
        notes = {
            f"columns not read: {listed(sorted(map(str, self.tally.unread)))}": self.tally.unread,
            f"{name}: limit={self.data.limit}, rows behind these were not read": self.tally.rows
            == self.data.limit,
            f"{name}: {self.tally.with_system} of {self.tally.read} dialogues were given the system prompt of Data(system=...)": self.tally.with_system,
            f"{name}: {self.tally.faults.count} bad rows were put into quarantine ({self.tally.faults.by_kind()}), see bad_rows.jsonl": self.tally.faults.count,
        }
        return [note for note, happened in notes.items() if happened]


def _check_margin(example: Pair, first: Example | None) -> None:
    if isinstance(first, Pair) and (example.margin is None) != (first.margin is None):
        has, has_not = ("is missing", "has one") if example.margin is None else ("is given", "has none")
        raise BadRow(
            "margin", "missing field", f"{has} and {first.place} {has_not}; all rows need it, or none"
        )
