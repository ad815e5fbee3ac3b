"""Rows that do not fit into max_length: refused, dropped, cut or split, and always counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from posttrain.errors import OverlongError

from ..examples import WAYS, Kind, Overlong
from .encoders import ENCODERS, IDENTICAL
from .spill import Spill, part_of
from .table import RECORDS, UNTRAINED, Ragged

if TYPE_CHECKING:
    import numpy as np

    from .raw import RawRows

TOO_LONG = "longer than max_length"
REFUSED_ABOVE = 0.01  # with "error": up to this share of the rows is dropped and counted
CHUNK = 4096  # rows written at once
NEAR = 64  # rows; nearer ones are read together
COLUMNS: Mapping[Kind, Mapping[str, str]] = {  # of the finished table
    "text": {"input_ids": "int32", "labels": "int32"},
    "conversation": {"input_ids": "int32", "labels": "int32"},
    "preference": {"prompt_ids": "int32", "chosen_ids": "int32", "rejected_ids": "int32"},
    "unpaired": {"prompt_ids": "int32", "completion_ids": "int32"},
    "prompt": {"prompt_ids": "int32", RECORDS: "uint8"},
    "labelled": {"input_ids": "int32", "classes": "int32"},
    "tagged": {"input_ids": "int32", "labels": "int32"},
    "exchange": {"prompt_ids": "int32", "completion_ids": "int32"},
}


@dataclass
class Fitted:
    """What became of the rows of one part; a report is made of it."""

    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    windows: int = 0  # made of the rows that were split
    stop_tokens_lost: int = 0


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A text or dialogue as tokens, and the token ranges of it that are trained."""

    ids: np.ndarray
    spans: tuple[tuple[int, int], ...]

    @property
    def learns(self) -> bool:
        """The first token of a row is never predicted, so being trained does not help it."""
        return any(end > max(start, 1) for start, end in self.spans)

    def columns(self) -> dict[str, Any]:
        labels = array("i", [UNTRAINED]) * len(self.ids)
        for start, end in self.spans:
            labels[start:end] = array("i", self.ids[start:end].tolist())
        return {"input_ids": self.ids, "labels": labels}

    def piece(self, begin: int, stop: int) -> TokenRow:
        inside = ((max(start, begin) - begin, min(end, stop) - begin) for start, end in self.spans)
        return replace(self, ids=self.ids[begin:stop], spans=tuple((a, b) for a, b in inside if a < b))


def learning(spans: Ragged) -> np.ndarray:
    """(rows,) whether a row has a trained token behind its first one, of flat (start, end) pairs."""
    import numpy as np

    found = np.zeros(len(spans), dtype=bool)
    for low in range(0, len(spans), CHUNK):
        some = np.arange(low, min(low + CHUNK, len(spans)))
        values, lengths = _taken(spans, some)
        rows = np.repeat(some, lengths // 2)
        found[rows[values[1::2] > np.maximum(values[0::2], 1)]] = True
    return found


def refuse_many(raw: RawRows, rows: np.ndarray, room: int, beside: str = "") -> None:
    """With overlong="error": raises OverlongError when more than one row in a hundred does not fit into `room`.

    beside: the name of what shares max_length with a prompt: "max_new_tokens".
    """
    import numpy as np

    lengths = raw.lengths[rows]
    long = int((lengths > room).sum())
    if long <= REFUSED_ABOVE * len(rows):
        return
    order = np.argsort(-lengths, kind="stable")[:3]
    named = ", ".join(f"{raw.place(int(rows[i]))} has {lengths[i]}" for i in order[:long])
    longest = int(lengths[order[0]])
    if beside:
        what = f"the {room} tokens that max_length leaves them beside {beside}"
        remedy = f"raise max_length by {longest - room}, which fits all, or set overlong to 'drop'"
    else:
        ways = [repr(way) for way in WAYS[raw.kind] if way != "error"]
        what = f"max_length={room} tokens"
        remedy = (
            f"set max_length={longest}, which fits all, or overlong to {', '.join(ways[:-1])} or {ways[-1]}"
        )
    raise OverlongError(f"{long} of {len(rows)} rows are longer than {what} ({named}); {remedy}.")


def fit(raw: RawRows, rows: np.ndarray, max_length: int, overlong: Overlong, spill: Spill) -> Fitted:
    """Write the chosen rows to `spill`, in their order; whole where they fit. Raises OverlongError."""

    rows = rows[(raw.flags[rows] & IDENTICAL) == 0]
    if overlong == "error":
        refuse_many(raw, rows, max_length, "max_new_tokens" if raw.kind == "prompt" else "")
    fitted, fit_one = Fitted(), _FITTERS[raw.kind]
    for at in range(0, len(rows), CHUNK):
        for run, whole in _runs(raw, rows[at : at + CHUNK], max_length):
            if whole:
                spill.add_rows(*_whole(raw, run))
                continue
            for row in run.tolist():
                fit_one(raw, row, max_length, overlong, spill, fitted)
    return fitted


def _runs(raw: RawRows, rows: np.ndarray, max_length: int) -> Iterator[tuple[np.ndarray, bool]]:
    """The rows in their order, in pieces: (neighbours of the raw rows, whether they are taken as they are)."""
    import numpy as np

    whole = raw.learns[rows] & (raw.lengths[rows] <= max_length)
    steps = np.diff(rows)
    # What lies between two rows is read with them: a mixture's next row may be of another source.
    breaks = (steps <= 0) | (steps > NEAR) | (whole[1:] != whole[:-1])
    begins = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    for begin, end in pairwise(begins):
        yield rows[begin:end], bool(whole[begin])


def _whole(raw: RawRows, rows: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows in ascending order as they are: (columns, numbers) for Spill.add_rows."""
    columns = {
        name: _taken(raw.table.columns[name], rows) for name in ENCODERS[raw.kind].columns if name != RECORDS
    }
    if raw.kind == "prompt":
        columns[RECORDS] = _taken(raw.lines, rows)
    if "spans" in columns:
        ids, lengths = columns.pop("ids")
        columns = {
            "input_ids": (ids, lengths),
            "labels": (_labels(ids, lengths, *columns.pop("spans")), lengths),
        }
    if raw.kind in ("labelled", "tagged"):
        columns = dict(zip(COLUMNS[raw.kind], columns.values(), strict=True))
    return columns, {name: raw.numbers[rows] for name in numbers_of(raw.kind)}


def numbers_of(kind: Kind) -> Mapping[str, str]:
    """The dtype of each number of the finished table; "margin" is left out where the pairs have none."""
    return {"preference": {"margin": "float32"}, "unpaired": {"label": "bool"}}.get(kind, {})


def _taken(column: Ragged, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, lengths) of rows in ascending order."""
    import numpy as np

    low, high = int(rows[0]), int(rows[-1]) + 1
    offsets = part_of(column.offsets, low, high + 1)
    lengths = np.diff(offsets)
    values = part_of(column.values, int(offsets[0]), int(offsets[-1]))
    if high - low == len(rows):
        return values, lengths
    wanted = np.zeros(high - low, dtype=bool)
    wanted[rows - low] = True
    return values[np.repeat(wanted, lengths)], lengths[wanted]


def _labels(ids: np.ndarray, lengths: np.ndarray, spans: np.ndarray, span_lengths: np.ndarray) -> np.ndarray:
    """The ids where a span covers them, -100 elsewhere; spans are (start, end) pairs inside their rows."""
    import numpy as np

    begins = np.repeat(np.cumsum(lengths) - lengths, span_lengths)
    borders = spans + begins
    steps = np.zeros(len(ids) + 1, dtype=np.int8)
    np.add.at(steps, borders[0::2], 1)
    np.add.at(steps, borders[1::2], -1)
    return np.where(np.cumsum(steps[:-1], dtype=np.int8) > 0, ids, np.int32(UNTRAINED))


def _fit_tokens(
    raw: RawRows, row: int, max_length: int, overlong: Overlong, spill: Spill, fitted: Fitted
) -> None:
    flat = raw.table.columns["spans"][row].tolist()
    tokens = TokenRow(raw.table.columns["ids"][row], tuple(zip(flat[0::2], flat[1::2], strict=True)))
    if not tokens.learns:
        fitted.dropped["no trained token"] += 1
    elif overlong == "truncate":
        _truncate(tokens, max_length, spill, fitted)
    elif overlong == "split":
        _split(tokens, max_length, spill, fitted)
    else:
        fitted.dropped[TOO_LONG] += 1


def _truncate(row: TokenRow, max_length: int, spill: Spill, fitted: Fitted) -> None:
    kept = row.piece(0, max_length)
    if not kept.learns:
        fitted.dropped["no trained token left after the cut"] += 1
        return
    fitted.cut += 1
    fitted.stop_tokens_lost += any(start < max_length < end for start, end in row.spans)
    spill.add(kept.columns(), {})


def _split(row: TokenRow, max_length: int, spill: Spill, fitted: Fitted) -> None:
    windows = [row.piece(at, at + max_length) for at in range(0, len(row.ids), max_length)]
    learning_windows = [window for window in windows if window.learns]
    fitted.cut += 1
    fitted.windows += len(windows)
    if len(learning_windows) < len(windows):
        fitted.dropped["window without a trained token"] += len(windows) - len(learning_windows)
    # A stop token that opens a window is the window's first token, and that one is never predicted.
    fitted.stop_tokens_lost += any((end - 1) % max_length == 0 for _, end in row.spans)
    for window in learning_windows:
        spill.add(window.columns(), {})


def _fit_answers(
    raw: RawRows, row: int, max_length: int, overlong: Overlong, spill: Spill, fitted: Fitted
) -> None:
    first, *names = ENCODERS[raw.kind].lengths
    prompt, answers = raw.table.columns[first][row], [raw.table.columns[name][row] for name in names]
    room = max_length - len(prompt)
    if room <= 0:
        fitted.dropped["prompt fills max_length"] += 1
    elif overlong == "truncate":
        cut = [answer[:room] for answer in answers]
        if len(cut) == 2 and cut[0].tolist() == cut[1].tolist():
            fitted.dropped["answers equal after the cut"] += 1
            return
        fitted.cut += 1
        fitted.stop_tokens_lost += 1  # a cut answer always loses it: it is the last token
        numbers = {name: float(raw.numbers[row]) for name in numbers_of(raw.kind)}
        spill.add({first: prompt, **dict(zip(names, cut, strict=True))}, numbers)
    else:
        fitted.dropped[TOO_LONG] += 1


def _fit_labelled(
    raw: RawRows, row: int, max_length: int, overlong: Overlong, spill: Spill, fitted: Fitted
) -> None:
    if overlong != "truncate":
        fitted.dropped[TOO_LONG] += 1
        return
    fitted.cut += 1
    ids, labels = (raw.table.columns[name][row] for name in ENCODERS[raw.kind].columns)
    columns = (_cut(ids, max_length), labels if raw.kind == "labelled" else _cut(labels, max_length))
    spill.add(dict(zip(COLUMNS[raw.kind], columns, strict=True)), {})


def _cut(values: np.ndarray, max_length: int) -> np.ndarray:
    """The last one stays: it is what the text ends with, and where a causal model's head reads."""
    import numpy as np

    return np.concatenate([values[: max_length - 1], values[-1:]])


def _drop(raw: RawRows, row: int, max_length: int, overlong: Overlong, spill: Spill, fitted: Fitted) -> None:
    fitted.dropped[TOO_LONG] += 1


_FITTERS: Mapping[Kind, Callable[..., None]] = {
    "text": _fit_tokens,
    "conversation": _fit_tokens,
    "preference": _fit_answers,
    "unpaired": _fit_answers,
    "prompt": _drop,
    "labelled": _fit_labelled,
    "tagged": _fit_labelled,
    "exchange": _fit_answers,
}
