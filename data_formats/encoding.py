"""From a stage's data to token tables and the report that goes with them."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from posttrain.errors import EmptyStageDataError, SettingError

from .data import Data
from .examples import WAYS, Detection, Examples, Kind, Overlong
from .format import DataFormat
from .holdout import divide
from .loading import Reading, detection_of
from .processes import See, write_source
from .questions import Question, questions_of, questions_of_exchanges
from .report import DataReport, percentile
from .tokens.classes import Classes
from .tokens.encoders import CROSSED, EXPANDED, IDENTICAL, PLAIN, STOP_ADDED, TEMPLATED, UNTAGGED, Work
from .tokens.mixture import mixed
from .tokens.overlong import COLUMNS, Fitted, fit, numbers_of
from .tokens.raw import RawRows, RawWriter, write_rows
from .tokens.spill import Spill
from .tokens.table import TokenTable

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    table: TokenTable
    report: DataReport
    questions: tuple[Question, ...] = ()  # of rows that are held out


@dataclass(frozen=True)
class Limits:
    """How long a row may be, and what becomes of longer ones."""

    max_length: int
    overlong: Overlong

    def check(self, kind: Kind) -> None:
        """Raises SettingError."""
        if self.max_length < 2:
            raise SettingError(f"max_length must be at least 2 tokens, not {self.max_length}.")
        if self.overlong not in get_args(Overlong):
            raise SettingError(
                f"overlong must be one of {', '.join(get_args(Overlong))}, not '{self.overlong}'."
            )
        if self.overlong not in WAYS[kind]:
            raise SettingError(
                f"overlong='{self.overlong}' does not work here; rows of kind {kind} can be met with {', '.join(WAYS[kind])}."
            )

    @property
    def when_measured(self) -> Limits:
        """Of rows that are only measured: too long a row is dropped and counted where training would stop."""
        return replace(self, overlong="drop") if self.overlong == "error" else self


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int, overlong: Overlong
) -> Encoded:
    """Examples in memory: render every one once, find and prove what is trained, fit the rows into max_length.

    Raises DataError: OverlongError, RowError, or EmptyStageDataError when no row is left.
    """
    limits = Limits(max_length, overlong)
    limits.check(examples.kind)
    with tempfile.TemporaryDirectory(prefix="posttrain-") as aside:
        folder = Path(aside)
        raw = write_rows(examples.examples, examples.kind, tokenizer, folder / "raw")
        source = Account(examples.source, examples.detection, len(examples), examples.notes)
        made = finish(raw, raw.order, limits, source, folder / "table")
        table = made.table.in_memory()
    _refuse_empty(made.report)
    return Encoded(table, made.report)


def encode_data(
    data: Data,
    eval_data: Data | None,
    kind: Kind,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    folder: Path,
) -> Mapping[str, Encoded]:
    """Both sources as tables on disk: {"train", "held_out"}, the second one only where rows are held out.

    Without eval_data, rows of `data` are held out. Every row is read, checked, rendered and tokenised once, in
    bounded memory. Quarantined rows are in folder/bad_rows.jsonl; of rows for a head, folder/labels.json names the
    classes in the order of their numbers.
    Raises DataError: RowError, OverlongError, or EmptyStageDataError when no row is left to train on.
    """
    limits.check(kind)
    parts, raw = read_rows(data, kind, tokenizer, folder)
    account = Account.of(data, parts)
    if eval_data is None:
        train, held, few = divide(raw.hashes)
        account = replace(account, notes=(*account.notes, *few))
        held_raw, held_account = raw, replace(account, notes=(), bad=0)
    else:
        train = raw.order
        formats = [part.format for part in parts]
        eval_parts, held_raw = read_rows(eval_data, kind, tokenizer, folder, "eval_", formats)
        held, held_account = held_raw.order, Account.of(eval_data, eval_parts)
    shares = data.shares()
    if shares is not None:
        sizes = [part.tally.read for part in parts]
        all_of_them = _distinct(raw.examples[train])
        train, note = mixed(raw.examples, train, sizes, shares, data.interleave or "first_exhausted")
        note = note.format(names=[str(part.data) for part in parts])
        unused = all_of_them - _distinct(raw.examples[train])
        account = replace(account, notes=(*account.notes, note), unused=unused)
    made = {"train": finish(raw, train, limits, account, folder / "train")}
    _refuse_empty(made["train"].report)
    if kind in ("labelled", "tagged"):
        classes = Classes.of(parts[0].format)
        notes = (*made["train"].report.notes, *classes.notes(made["train"].table, str(data)))
        made["train"] = replace(made["train"], report=replace(made["train"].report, notes=notes))
        classes.write(folder)
    if len(held):
        measured = finish(held_raw, held, limits.when_measured, held_account, folder / "held_out")
        asked = _questions(held_raw, held, parts if eval_data is None else eval_parts, limits)
        made["held_out"] = replace(measured, questions=tuple(asked))
    return made


def _questions(raw: RawRows, held: np.ndarray, parts: list[Reading], limits: Limits) -> list[Question]:
    if raw.kind not in ("conversation", "exchange"):
        return []
    ends = list(accumulate(part.tally.read for part in parts))

    def format_of(number: int) -> str:
        return parts[bisect_right(ends, number)].format.name

    asking = questions_of if raw.kind == "conversation" else questions_of_exchanges
    return asking(raw, held.tolist(), raw.lowest, format_of, limits.max_length)


def read_rows(
    data: Data,
    kind: Kind,
    tokenizer: Any,
    folder: Path,
    prefix: str = "",
    like: Sequence[DataFormat] = (),
    see: See | None = None,
) -> tuple[list[Reading], RawRows]:
    """All sources of `data` in one set of rows, one behind the other. `see` is shown every example, in this process."""
    parts = Reading.open_all(data, kind, folder / f"{prefix}bad_rows.jsonl", like)
    writer = RawWriter(kind, Work(tokenizer), folder / f"{prefix}raw")
    for part in parts:
        write_source(part, writer, folder / f"{prefix}parts", see)
    return parts, writer.finish()


@dataclass(frozen=True)
class Account:
    """Where rows came from."""

    source: str
    detection: Detection
    rows: int
    notes: tuple[str, ...]
    bad: int = 0
    unused: int = 0  # that the shares of a mixture leave out

    @classmethod
    def of(cls, data: Data, parts: list[Reading]) -> Account:
        notes = tuple(note for part in parts for note in part.notes())
        bad = sum(part.tally.faults.count for part in parts)
        return cls(str(data), detection_of(parts), sum(part.tally.read for part in parts) + bad, notes, bad)


def finish(raw: RawRows, rows: np.ndarray, limits: Limits, account: Account, folder: Path) -> Encoded:
    """The chosen rows as a table in `folder`, and the report of them."""
    import numpy as np

    numbers = dict(numbers_of(raw.kind))
    if "margin" in numbers and (not len(rows) or np.isnan(raw.numbers[rows[0]])):
        numbers = {}
    spill = Spill(folder, COLUMNS[raw.kind], numbers)
    fitted = fit(raw, rows, limits.max_length, limits.overlong, spill)
    spill.finish()
    table = TokenTable.load(folder)
    return Encoded(table, _report(raw, rows, fitted, limits, account, table))


def _report(
    raw: RawRows, rows: np.ndarray, fitted: Fitted, limits: Limits, account: Account, table: TokenTable
) -> DataReport:

    flags = raw.flags[rows]
    different = rows[(flags & IDENTICAL) == 0]
    identical = _distinct(raw.examples[rows[(flags & IDENTICAL) > 0]])
    if identical:
        fitted.dropped["chosen equal to rejected"] = identical
    if account.bad:
        fitted.dropped["quarantined"] = account.bad
    if account.unused:
        fitted.dropped["left out by the mixture's shares"] = account.unused
    lengths = raw.lengths[different]
    longest = int(lengths.max(initial=0))
    chosen_longer = (
        float((raw.each_length("chosen_ids") > raw.each_length("rejected_ids"))[different].mean())
        if raw.kind == "preference" and len(different)
        else 0.0
    )
    read = _distinct(raw.examples[rows]) + account.bad + account.unused
    return DataReport(
        source=account.source,
        format=account.detection.format,
        why=account.detection.why,
        rows_read=read,
        rows_kept=len(table),
        rows_cut=fitted.cut,
        rows_dropped=fitted.dropped.total(),
        dropped_reasons=dict(fitted.dropped),
        tokens=table.tokens,
        trained_tokens=table.trained_tokens,
        length_p50=percentile(lengths, 0.5),
        length_p95=percentile(lengths, 0.95),
        length_max=longest,
        max_length=limits.max_length,
        overlong_rows=int((lengths > limits.max_length).sum()),
        smallest_max_length_that_fits=longest,
        stop_tokens_lost=fitted.stop_tokens_lost,
        injected_text=raw.injected_text,
        identical_pairs=identical,
        length_bias=chosen_longer,
        notes=(*account.notes, *_notes(raw, rows, fitted), *_tokenized_by(raw)),
    )


def _distinct(numbers: np.ndarray) -> int:
    """How many different ones there are of small whole numbers, in a byte for each."""
    import numpy as np

    seen = np.zeros(int(numbers.max(initial=-1)) + 1, dtype=bool)
    seen[numbers] = True
    return int(np.count_nonzero(seen))


def _notes(raw: RawRows, rows: np.ndarray, fitted: Fitted) -> list[str]:
    """What happened to the rows, counted by example."""

    def examples_with(flag: int) -> int:
        return _distinct(raw.examples[rows[(raw.flags[rows] & flag) > 0]])

    expanded_rows = int(((raw.flags[rows] & EXPANDED) > 0).sum())
    notes = {
        f"{examples_with(TEMPLATED)} rows of plain texts became one user turn and one answer in the model's chat template": examples_with(
            TEMPLATED
        ),
        f"{examples_with(PLAIN)} rows are plain prompts and answers, the model has no chat template to put around them": examples_with(
            PLAIN
        ),
        f"{examples_with(EXPANDED)} dialogues became {expanded_rows} rows, one for each answer, because the chat template rewrites earlier turns or ends them with no stop token": expanded_rows,
        f"the chat template ends no turn with a stop token, the tokenizer's end token was added in {examples_with(STOP_ADDED)} rows": examples_with(
            STOP_ADDED
        ),
        f"{examples_with(CROSSED)} rows have spans whose borders fall inside a token, which are tagged by the tokens that they touch": examples_with(
            CROSSED
        ),
        f"{examples_with(UNTAGGED)} rows have spans without a token of their own, which are not tagged": examples_with(
            UNTAGGED
        ),
        f"{fitted.cut} rows became {fitted.windows} windows of max_length tokens": fitted.windows,
    }
    return [note for note, happened in notes.items() if happened] + list(raw.notes)


def _tokenized_by(raw: RawRows) -> list[str]:
    """tokenizers needs no mention, a faster library does."""
    return (
        []
        if raw.tokenized_by.startswith("tokenizers ")
        else [f"tokenised by {raw.tokenized_by}, proven equal to tokenizers"] * bool(raw.tokenized_by)
    )


def _refuse_empty(report: DataReport) -> None:
    if not report.rows_kept:
        reasons = report.reasons() or "no row was read"
        raise EmptyStageDataError(
            f"{report.source}: nothing is left to train on ({reasons}); check the data and max_length={report.max_length}."
        )
