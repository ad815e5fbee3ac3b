"""All rows of a stage's data as tokens, before they are divided and fitted into max_length: on disk, not in memory."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from ..examples import Example, Kind
from ..holdout import content_hash
from ..questions import MOST
from .encoders import ENCODERS, Encoder, RowRefused, Rows, Texts, Work
from .overlong import learning
from .spill import Spill
from .table import Ragged, Records, TokenTable
from .text_encoder import TextEncoder

if TYPE_CHECKING:
    import numpy as np

BATCH = 1000  # examples tokenised in one call
Refuse = Callable[[int, Example, DataError], None]  # (its number among the examples, it, why)


@dataclass(frozen=True, eq=False)
class RawRows:
    """Rows of one kind, as their encoder made them.

    hashes (rows,) uint64: what a row says, for the held-out part. examples (rows,) int64: which example it is of.
    flags (rows,) uint8: what happened to it, bits of `encoders`. numbers (rows,) float32.
    """

    kind: Kind
    table: TokenTable
    injected_text: str  # the system prompt that the template adds and the rows do not have
    tokenized_by: str
    notes: tuple[str, ...] = ()  # what was done about the chat template
    lowest: Mapping[int, Example] = field(
        default_factory=dict
    )  # the examples with the lowest hashes, by number

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def hashes(self) -> np.ndarray:
        return self.table.numbers["hash"]

    @property
    def examples(self) -> np.ndarray:
        return self.table.numbers["example"]

    @property
    def flags(self) -> np.ndarray:
        return self.table.numbers["flags"]

    @property
    def numbers(self) -> np.ndarray:
        return self.table.numbers["value"]

    @property
    def lines(self) -> Ragged:
        """The JSON beside each prompt."""
        assert isinstance(self.table.records, Records)
        return self.table.records.lines

    @property
    def order(self) -> np.ndarray:
        """All rows."""
        import numpy as np

        return np.arange(len(self))

    def place(self, row: int) -> str:
        return os.fsdecode(self.table.columns["places"][row].tobytes())

    def each_length(self, column: str) -> np.ndarray:
        return self.table.lengths(column)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of each row; of a pair the prompt and the longer answer."""
        import numpy as np

        first, *answers = [self.each_length(name) for name in ENCODERS[self.kind].lengths]
        return first if not answers else first + np.maximum.reduce(answers)

    @cached_property
    def learns(self) -> np.ndarray:
        """(rows,) whether a row has a trained token that is not its first."""
        import numpy as np

        if "spans" not in self.table.columns:
            return np.ones(len(self), dtype=bool)
        return learning(self.table.columns["spans"])


def write_rows(
    examples: Iterable[Example], kind: Kind, tokenizer: Any, folder: Path, refuse: Refuse | None = None
) -> RawRows:
    """Every example rendered once, tokenised and proven. While one batch is tokenised the next one is rendered.

    refuse: is told of an example that the chat template or the tokenizer cannot write; without it the DataError is raised.
    """
    encoder, work = ENCODERS[kind], Work(tokenizer)
    numbers = {"hash": "uint64", "example": "int64", "flags": "uint8", "value": "float32"}
    spill = Spill(folder, {**encoder.columns, "places": "uint8"}, numbers)
    writer: _Writer | None = None
    waiting: deque[tuple[list[Texts], Future[Ragged]]] = deque()
    with _no_collections(), ThreadPoolExecutor(1) as pool:
        for batch in _batches(examples):
            written = [_rendered(work, encoder.render, number, one, refuse) for number, one in batch]
            rendered = [texts for texts in written if texts is not None]
            if not rendered:  # tokenizers cannot encode no text
                continue
            flat = [one.text for texts in rendered for one in texts.rendered]
            if writer is None:
                writer = _Writer(spill, encoder, TextEncoder.of(tokenizer, flat), refuse)
            waiting.append((rendered, pool.submit(writer.to_ids.ids, flat)))
            if len(waiting) > 1:
                writer.write(*_done(waiting))
        while waiting and writer is not None:
            writer.write(*_done(waiting))
    spill.finish()
    table, injected = TokenTable.load(folder), work.injected_text or ""
    if writer is None:
        return RawRows(kind, table, injected, "")
    return RawRows(
        kind, table, injected, writer.to_ids.fast.name, tuple(work.notes()), writer.lowest.examples()
    )


@contextmanager
def _no_collections() -> Iterator[None]:
    """Rows hold no cycles, and every search for some goes through all that the imported libraries hold: a quarter of
    the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _done(waiting: deque[tuple[list[Texts], Future[Ragged]]]) -> tuple[list[Texts], Ragged]:
    texts, ids = waiting.popleft()
    return texts, ids.result()


def _rendered(
    work: Work, render: Callable[[Work, Any], Texts], number: int, example: Example, refuse: Refuse | None
) -> Texts | None:
    try:
        texts = render(work, example)
        texts.number = number
        return texts
    except RowRefused as error:
        if refuse is None:
            raise
        refuse(number, example, error)
        return None


class _Lowest:
    """The examples that are held out before all others, as many as questions may be asked."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, Example]] = []  # a heap of (-hash, number, example)
        self._hashes = set[int]()

    def offer(self, hashed: int, number: int, example: Example) -> None:
        full = len(self._kept) >= MOST
        if hashed in self._hashes or (full and -hashed <= self._kept[0][0]):
            return
        self._hashes.add(hashed)
        heappush(self._kept, (-hashed, number, example))
        if full:
            self._hashes.discard(-heappop(self._kept)[0])

    def examples(self) -> dict[int, Example]:
        return {number: example for _, number, example in sorted(self._kept, key=lambda one: -one[0])}


class _Writer:
    """What turns tokenised batches into rows of the spill."""

    def __init__(self, spill: Spill, encoder: Encoder, to_ids: TextEncoder, refuse: Refuse | None) -> None:
        self.spill, self.encoder, self.to_ids, self.refuse = spill, encoder, to_ids, refuse
        self.lowest = _Lowest()
        self.examples = 0  # written so far

    def write(self, batch: Sequence[Texts], ids: Ragged) -> None:
        """An example whose trained tokens cannot be told apart is refused; the others are written."""
        rendered = [one for each in batch for one in each.rendered]
        places = [each.example.place for each in batch for _ in each.rendered]
        try:
            rows = self.encoder.rows(batch, self.to_ids.tokens(rendered, ids, places))
        except DataError as error:
            if self.refuse is None:
                raise
            if len(batch) == 1:
                self.refuse(batch[0].number, batch[0].example, error)
            else:
                self._write_one_by_one(batch, ids)
            return
        self._add(batch, rows)

    def _write_one_by_one(self, batch: Sequence[Texts], ids: Ragged) -> None:
        at = 0
        for each in batch:
            end = at + len(each.rendered)
            self.write([each], Ragged.of(ids[i] for i in range(at, end)))
            at = end

    def _add(self, batch: Sequence[Texts], rows: Rows) -> None:
        import numpy as np

        hashes = np.array([content_hash(each.example) for each in batch], dtype=np.uint64)
        for number, (hashed, each) in enumerate(zip(hashes.tolist(), batch, strict=True), self.examples):
            self.lowest.offer(hashed, number, each.example)
        owners = np.asarray(rows.owners, dtype=np.int64)
        places = [os.fsencode(batch[owner].example.place) for owner in owners.tolist()]
        numbers = {
            "hash": hashes[owners],
            "example": self.examples + owners,
            "flags": np.array([each.flags for each in batch], dtype=np.uint8)[owners],
            "value": rows.values,
        }
        named = b"".join(places), [len(place) for place in places]
        self.spill.add_rows({**rows.columns, "places": named}, numbers)
        self.examples += len(batch)


def _batches(examples: Iterable[Example]) -> Iterator[list[tuple[int, Example]]]:
    each = enumerate(examples)
    while batch := list(islice(each, BATCH)):
        yield batch
