"""Rows that do not fit into max_length: refused, dropped, cut or split, and always counted."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from posttrain.errors import OverlongError

from .examples import Message, Overlong, Row
from .report import Tally
from .table import UNTRAINED

TOO_LONG = "longer than max_length"
REFUSED_ABOVE = 0.01  # with "error": up to this share of the rows is dropped and counted


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A text or dialogue as tokens, and the token ranges of it that are trained."""

    place: str
    ids: array[int]
    spans: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def learns(self) -> bool:
        """The first token of a row is never predicted, so being trained does not help it."""
        return any(end > max(start, 1) for start, end in self.spans)

    def labels(self) -> array[int]:
        labels = array("i", [UNTRAINED]) * len(self.ids)
        for start, end in self.spans:
            labels[start:end] = self.ids[start:end]
        return labels

    def piece(self, begin: int, stop: int) -> TokenRow:
        inside = ((max(start, begin) - begin, min(end, stop) - begin) for start, end in self.spans)
        return replace(self, ids=self.ids[begin:stop], spans=tuple((a, b) for a, b in inside if a < b))


@dataclass(frozen=True, slots=True)
class AnswersRow:
    """A prompt and its answers: the chosen and the rejected one, or one with a verdict."""

    place: str
    prompt: array[int]
    answers: tuple[array[int], ...]
    number: float | None  # the pair's margin, or 1.0 for a good answer and 0.0 for a bad one

    @property
    def length(self) -> int:
        return len(self.prompt) + max(map(len, self.answers))


@dataclass(frozen=True, slots=True)
class PromptRow:
    place: str
    ids: array[int]
    prompt: tuple[Message, ...] | str
    columns: Row

    @property
    def length(self) -> int:
        return len(self.ids)

    def record(self) -> dict[str, Any]:
        """What a reward function is given: the prompt as it was written, and the row's other columns."""
        if isinstance(self.prompt, str):
            return {"prompt": self.prompt, "columns": dict(self.columns)}
        turns = [{"role": turn.role, "content": turn.content} for turn in self.prompt]
        return {"prompt": turns, "columns": dict(self.columns)}


class _Row(Protocol):
    @property
    def place(self) -> str: ...
    @property
    def length(self) -> int: ...


def refuse_many(rows: Sequence[_Row], max_length: int, ways_out: str) -> None:
    """With overlong="error": more than one row in a hundred does not fit."""
    _refuse(rows, max_length, f"max_length={max_length} tokens",
            lambda longest: f"set max_length={longest}, which fits all, or overlong to {ways_out}")  # fmt: skip


def refuse_many_prompts(rows: Sequence[PromptRow], room: int) -> None:
    """The same for prompts, which share max_length with the answer."""
    _refuse(rows, room, f"the {room} tokens that max_length leaves them beside max_new_tokens",
            lambda longest: f"raise max_length by {longest - room}, which fits all, or set overlong to 'drop'")  # fmt: skip


def _refuse(rows: Sequence[_Row], room: int, what: str, remedy: Callable[[int], str]) -> None:
    long = sorted((row for row in rows if row.length > room), key=lambda row: -row.length)
    if len(long) > REFUSED_ABOVE * len(rows):
        named = ", ".join(f"{row.place} has {row.length}" for row in long[:3])
        raise OverlongError(
            f"{len(long)} of {len(rows)} rows are longer than {what} ({named}); {remedy(long[0].length)}."
        )


def fit_rows(
    rows: Sequence[TokenRow], max_length: int, overlong: Overlong, tally: Tally
) -> Iterator[TokenRow]:
    for row in rows:
        if not row.learns:
            tally.dropped["no trained token"] += 1
        elif row.length <= max_length:
            yield row
        elif overlong == "truncate":
            yield from _truncate(row, max_length, tally)
        elif overlong == "split":
            yield from _split(row, max_length, tally)
        else:
            tally.dropped[TOO_LONG] += 1


def _truncate(row: TokenRow, max_length: int, tally: Tally) -> Iterator[TokenRow]:
    kept = row.piece(0, max_length)
    if not kept.learns:
        tally.dropped["no trained token left after the cut"] += 1
        return
    tally.cut += 1
    tally.stop_tokens_lost += any(start < max_length < end for start, end in row.spans)
    yield kept


def _split(row: TokenRow, max_length: int, tally: Tally) -> Iterator[TokenRow]:
    windows = [row.piece(at, at + max_length) for at in range(0, row.length, max_length)]
    learning = [window for window in windows if window.learns]
    tally.cut += 1
    tally.windows += len(windows)
    if len(learning) < len(windows):
        tally.dropped["window without a trained token"] += len(windows) - len(learning)
    # A stop token that opens a window is the window's first token, and that one is never predicted.
    tally.stop_tokens_lost += any((end - 1) % max_length == 0 for _, end in row.spans)
    yield from learning


def fit_answers(
    rows: Sequence[AnswersRow], max_length: int, overlong: Overlong, tally: Tally
) -> Iterator[AnswersRow]:
    for row in rows:
        room = max_length - len(row.prompt)
        if row.length <= max_length:
            yield row
        elif room <= 0:
            tally.dropped["prompt fills max_length"] += 1
        elif overlong == "truncate":
            cut = replace(row, answers=tuple(answer[:room] for answer in row.answers))
            if len(cut.answers) == 2 and cut.answers[0] == cut.answers[1]:
                tally.dropped["answers equal after the cut"] += 1
                continue
            tally.cut += 1
            tally.stop_tokens_lost += 1  # a cut answer always loses it: it is the last token
            yield cut
        else:
            tally.dropped[TOO_LONG] += 1
