"""What is in a data file: counts, lengths, duplicates, bad rows, and the tokens that would be trained."""

from __future__ import annotations

import tempfile
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError, DataFileError, OverlongError, RowError, SettingError

from .data import Data
from .examples import Conversation, Document, Example, Judged, Kind, Labelled, Message, Pair, Tagged
from .format import DataFormat
from .holdout import content_hash
from .loading import SHOWN_FAULTS, Faults, Reading, detect
from .report import DataReport, percentile
from .tokens.table import UNTRAINED, TokenTable

if TYPE_CHECKING:
    import numpy as np

    from .tokens.raw import RawRows

# Of two kinds that a row can be of, the one that uses more of it comes first.
KINDS: tuple[Kind, ...] = ("preference", "unpaired", "conversation", "text", "prompt", "labelled", "tagged")
SCRIPT_ROWS, SCRIPT_CHARACTERS = 2000, 200  # looked at to say which scripts the texts are in


@dataclass(frozen=True)
class Lengths:
    """Of texts in characters, or of rows in tokens."""

    half: int
    most: int  # 95 % have up to so many
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        return cls(percentile(lengths, 0.5), percentile(lengths, 0.95), max(map(int, lengths), default=0))


Pieces = tuple[tuple[str, bool], ...]  # (text, whether it is trained): neighbours differ in the second


@dataclass(frozen=True)
class Preview:
    """One row of the real table. parts: the whole of a text or dialogue; or a prompt and its answers, by name."""

    place: str
    tokens: int
    trained: int
    parts: tuple[tuple[str, Pieces], ...]


@dataclass(frozen=True)
class Tokens:
    """What a model's tokenizer and template make of the rows."""

    report: DataReport
    histogram: tuple[tuple[int, int, int], ...]  # (from, to, rows), in tokens; one bin ends at max_length
    previews: tuple[Preview, ...]
    overlong: str = ""  # what a stage stops with unless it is told what to do with too long rows


@dataclass(frozen=True)
class Inspection:
    source: str
    kind: Kind
    format: str
    why: str
    rows: int  # all of them, good and bad
    bad_rows: int
    bad_lines: tuple[str, ...]  # the first bad rows: "chat.jsonl:7 messages[0].role: is 'alien', ..."
    bad_kinds: Mapping[str, int]
    duplicates: int  # rows that say what an earlier row says
    identical_pairs: int
    characters: Mapping[str, Lengths]  # by role, or by "text"
    turns: Lengths | None  # messages of a dialogue
    scripts: Mapping[str, float]  # share of the letters: {"Latin": 0.9, "CJK": 0.1}
    notes: tuple[str, ...]
    refusals: tuple[str, ...] = ()  # what training stops with beside the bad rows
    tokens: Tokens | None = None

    @property
    def good(self) -> bool:
        return not self.bad_rows and not self.refusals


def find_kind(data: Data) -> Kind:
    """The kind of stage that the file is for; raises DataFileError that lists what is known."""
    for part in data.parts():
        if isinstance(part.format, DataFormat):
            return part.format.kind
    for kind in KINDS:
        try:
            detect(data, kind)
        except SettingError:  # the format that is given is of another kind
            continue
        except DataFileError as error:
            if "no known format" not in str(error):
                raise
            continue
        return kind
    known = ", ".join(KINDS)
    detect_error = _detect_error(data)
    raise DataFileError(f"{detect_error} (tried as {known})")


def _detect_error(data: Data) -> str:
    try:
        detect(data, "conversation")
    except DataFileError as error:
        return str(error)
    raise AssertionError("detect failed a moment ago")


def inspect(
    data: Any, kind: Kind | None = None, tokenizer: Any = None, *, max_length: int = 1024, previews: int = 3
) -> Inspection:
    """Read everything; bad rows are counted, not raised. With a tokenizer, rows become tokens, too.

    Raises DataFileError when the file as a whole cannot be read.
    """
    data = replace(Data.of(data), on_bad_rows="quarantine")
    kind = kind or find_kind(data)
    if tokenizer is None:
        return _inspect_rows(data, kind)
    try:
        return _inspect_tokens(data, kind, tokenizer, max_length, previews)
    except DataError as error:  # no table can be made, and what is in the file can be told all the same
        found = _inspect_rows(data, kind)
        return replace(found, refusals=tuple(dict.fromkeys((*found.refusals, str(error)))))


def _inspect_rows(data: Data, kind: Kind) -> Inspection:
    seen, refusals = _Seen(), []
    parts = Reading.open_all(data, kind)
    for part in parts:
        try:
            for example in part:
                seen.add(example)
        except RowError as error:
            refusals.append(str(error))
    return replace(_inspection(data, kind, parts, seen), refusals=tuple(refusals))


def _inspect_tokens(data: Data, kind: Kind, tokenizer: Any, max_length: int, previews: int) -> Inspection:
    from .encoding import Account, Limits, finish, read_rows

    seen = _Seen()
    limits = Limits(max_length, "split" if kind == "text" else "drop")
    with tempfile.TemporaryDirectory(prefix="posttrain-") as aside:
        parts, raw = read_rows(data, kind, tokenizer, Path(aside), see=seen.add)
        account = replace(Account.of(data, parts), notes=())
        report = finish(raw, raw.order, limits, account, Path(aside) / "table").report
        dropped = {"bad" if why == "quarantined" else why: n for why, n in report.dropped_reasons.items()}
        rows = _shown(raw, max_length, previews)
        table = finish(raw, rows, limits, account, Path(aside) / "shown").table
        places = [raw.place(row) for row in rows.tolist()]
        shown = tuple(
            preview(table, i, tokenizer, places[min(i, len(places) - 1)])
            for i in range(min(previews, len(table)))
        )
        bins = histogram(raw.lengths[_different(raw)].tolist(), max_length)
        refused = _overlong(raw, max_length) if limits.overlong == "drop" else ""
        tokens = Tokens(replace(report, dropped_reasons=dropped), bins, shown, refused)
        return replace(_inspection(data, kind, parts, seen), tokens=tokens)


def _shown(raw: RawRows, max_length: int, previews: int) -> np.ndarray:
    """The first rows that are trained whole; of a text none of which is, the first one, in windows."""
    whole = raw.learns & (raw.lengths <= max_length) & _different(raw)
    return raw.order[whole][:previews] if whole.any() else raw.order[:1]


def _overlong(raw: RawRows, max_length: int) -> str:
    """What a stage stops with that is not told what to do with too long rows."""
    from .tokens.overlong import refuse_many

    try:
        refuse_many(raw, raw.order[_different(raw)], max_length, "max_new_tokens" * (raw.kind == "prompt"))
    except OverlongError as error:
        return str(error)
    return ""


def _different(raw: RawRows) -> np.ndarray:
    """(rows,) whether the answers of a pair differ."""
    from .tokens.encoders import IDENTICAL

    return (raw.flags & IDENTICAL) == 0


def _inspection(data: Data, kind: Kind, parts: Sequence[Reading], seen: _Seen) -> Inspection:
    formats = dict.fromkeys(part.format.name for part in parts)
    kinds: Counter[str] = Counter()
    for part in parts:
        kinds.update(part.tally.faults.kinds)
    letters = seen.scripts.total()
    return Inspection(
        source=str(data),
        kind=kind,
        format=", ".join(formats),
        why="; ".join(dict.fromkeys(part.format.why for part in parts)),
        rows=sum(part.tally.read for part in parts) + kinds.total(),
        bad_rows=kinds.total(),
        bad_lines=tuple(line for part in parts for line in part.tally.faults.lines)[:SHOWN_FAULTS],
        bad_kinds=dict(kinds),
        duplicates=seen.duplicates,
        identical_pairs=sum(part.tally.identical_pairs for part in parts),
        characters={role: Lengths.of(lengths) for role, lengths in seen.characters.items()},
        turns=Lengths.of(seen.turns) if seen.turns else None,
        scripts={name: count / letters for name, count in seen.scripts.most_common(5)},
        # without its faults a Reading does not tell of a file of bad rows, which is not kept here
        notes=tuple(
            note
            for part in parts
            for note in replace(part, tally=replace(part.tally, faults=Faults())).notes()
        ),
    )


@dataclass
class _Seen:
    """What is counted while examples go by."""

    hashes: set[int] = field(default_factory=set)
    duplicates: int = 0
    rows: int = 0
    characters: dict[str, list[int]] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)
    scripts: Counter[str] = field(default_factory=Counter)

    def add(self, example: Example) -> None:
        if isinstance(
            example, (Pair, Judged)
        ):  # content_hash is the prompt's, and two answers are no duplicate
            hashed = hash(repr(replace(example, place="")))
        else:
            hashed = content_hash(example)
        self.duplicates += hashed in self.hashes
        self.hashes.add(hashed)
        self.rows += 1
        texts = list(_texts(example))
        for role, text in texts:
            self.characters.setdefault(role, []).append(len(text))
        if isinstance(example, Conversation):
            self.turns.append(len(example.messages))
        if self.rows <= SCRIPT_ROWS:
            for _, text in texts:
                self.scripts.update(
                    _script(letter) for letter in text[:SCRIPT_CHARACTERS] if letter.isalpha()
                )


def _texts(example: Example) -> Iterable[tuple[str, str]]:
    """(role, text) of everything that an example says."""
    if isinstance(example, (Document, Labelled, Tagged)):
        yield "text", example.text
        return
    if isinstance(example, Conversation):
        yield from _turns(example.messages)
        return
    prompt = example.prompt
    yield from [("prompt", prompt)] if isinstance(prompt, str) else _turns(prompt)
    for name in ("completion", "chosen", "rejected", "answer"):
        text = getattr(example, name, None)
        if isinstance(text, str):
            yield name, text


def _turns(messages: Iterable[Message]) -> Iterable[tuple[str, str]]:
    return ((message.role, message.content) for message in messages)


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "other").partition(" ")[0] if letter > "\x7f" else "Latin"
    return name if name == "CJK" else name.title()


def histogram(lengths: Sequence[int], border: int) -> tuple[tuple[int, int, int], ...]:
    """(from, to, rows) in bins of which one ends at `border`; none at the ends is empty.

    They grow by about half; where that would be too many to look at, they double.
    """
    if not lengths:
        return ()
    ends = {2**power for power in range(max(lengths).bit_length() + 1)} | {border}
    if max(lengths) <= 128 * min(lengths):
        ends |= {3 * end // 2 for end in ends if end > 1} - {3 * border // 2}
    ordered = sorted(ends)
    bins = Counter(bisect_left(ordered, length) for length in lengths)
    return tuple(
        (ordered[i - 1] + 1 if i else 0, ordered[i], bins[i]) for i in range(min(bins), max(bins) + 1)
    )


def preview(table: TokenTable, row: int, tokenizer: Any, place: str) -> Preview:
    columns = table.row(row)
    ids = columns["prompt_ids" if "prompt_ids" in columns else "input_ids"]
    flags = [label != UNTRAINED for label in columns.get("labels", [UNTRAINED] * len(ids))]
    parts = [("prompt" if "prompt_ids" in columns else "", _pieces(tokenizer, ids, flags))]
    trained = sum(flags)
    for name, answer in _answers(table, row, columns):
        behind = _pieces(tokenizer, ids + answer, [False] * len(ids) + [True] * len(answer))
        parts.append((name, behind[-1:]))
        trained += len(answer)
    return Preview(place, len(ids) + trained - sum(flags), trained, tuple(parts))


def _answers(
    table: TokenTable, row: int, columns: Mapping[str, list[int]]
) -> Iterator[tuple[str, list[int]]]:
    for name in ("chosen", "rejected"):
        if f"{name}_ids" in columns:
            yield name, columns[f"{name}_ids"]
    if "completion_ids" in columns:
        judged = table.numbers.get("label")
        name = "answer" if judged is None else "good answer" if judged[row] else "bad answer"
        yield name, columns["completion_ids"]


def _pieces(tokenizer: Any, ids: list[int], flags: Sequence[bool]) -> Pieces:
    """Decoded from the first token on, because some tokenizers leave out the space that a text begins with."""
    ends = [i for i in range(1, len(ids)) if flags[i] != flags[i - 1]] + [len(ids)]
    texts = [tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) for end in ends]
    borders = [0, *map(len, texts)]
    pieces = zip(borders, borders[1:], ends, strict=False)
    return tuple((texts[-1][begin:end], flags[last - 1]) for begin, end, last in pieces)
