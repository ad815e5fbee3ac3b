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
from .encoders import ENCODERS, RowRefused, Rows, Texts, Work
from .overlong import learning
from .spill import Spill
from .table import Ragged, Records, TokenTable

if TYPE_CHECKING:
    import numpy as np

BATCH = 1000  # examples tokenised in one call
NUMBERS = {"hash": "uint64", "example": "int64", "flags": "uint8", "value": "float32"}
Refuse = Callable[[Example, str], None]  # (it, why)


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


def write_rows(examples: Iterable[Example], kind: Kind, tokenizer: Any, folder: Path) -> RawRows:
    """All examples in one go. Raises DataError for one that the chat template or the tokenizer cannot write."""
    writer = RawWriter(kind, Work(tokenizer), folder)
    writer.write(examples)
    return writer.finish()


@dataclass(frozen=True)
class Part:
    """What is known beside the rows of a part that was written to a folder of its own."""

    examples: int
    injected_text: str | None
    notes: tuple[str, ...]
    lowest: tuple[tuple[int, int, Example], ...]  # (hash, number, example)


class RawWriter:
    """Examples rendered once, tokenised, proven and written; and parts that another writer has written."""

    def __init__(self, kind: Kind, work: Work, folder: Path) -> None:
        self.kind, self.work, self.folder = kind, work, folder
        self.encoder = ENCODERS[kind]
        self.spill = Spill(folder, {**self.encoder.columns, "places": "uint8"}, NUMBERS)
        self.lowest = _Lowest()
        self.examples = 0  # written so far
        self._injected_text: str | None = None
        self._notes: dict[str, None] = {}

    def write(self, examples: Iterable[Example], refuse: Refuse | None = None) -> None:
        """While one batch is tokenised the next one is rendered.

        refuse: is told of an example that the chat template or the tokenizer cannot write; without it the DataError
        is raised.
        """
        waiting: deque[tuple[list[Texts], Future[Ragged]]] = deque()
        with _no_collections(), ThreadPoolExecutor(1) as pool:
            for batch in _batches(examples):
                written = [_rendered(self.work, self.encoder.render, one, refuse) for one in batch]
                rendered = [texts for texts in written if texts is not None]
                if not rendered:  # tokenizers cannot encode no text
                    continue
                flat = [one.text for texts in rendered for one in texts.rendered]
                waiting.append((rendered, pool.submit(self.work.encoder(flat).ids, flat)))
                if len(waiting) > 1:
                    self._write(*_done(waiting), refuse)
            while waiting:
                self._write(*_done(waiting), refuse)
        self._learn(self.work.injected_text, self.work.notes())

    def _learn(self, injected_text: str | None, notes: Iterable[str]) -> None:
        self._injected_text = injected_text if self._injected_text is None else self._injected_text
        self._notes |= dict.fromkeys(notes)

    def close(self) -> Part:
        """The rows are in the folder as a part for another writer's `take`."""
        self.spill.finish()
        return Part(self.examples, self._injected_text, tuple(self._notes), tuple(self.lowest.all()))

    def take(self, folder: Path, part: Part) -> None:
        """The rows of a part behind those that are here."""
        self.spill.extend(folder, {"example": self.examples})
        for hashed, number, example in sorted(part.lowest, key=lambda one: one[1]):
            self.lowest.offer(hashed, self.examples + number, example)
        self.examples += part.examples
        self._learn(part.injected_text, part.notes)

    def finish(self) -> RawRows:
        self.spill.finish()
        encoder = self.work.to_ids
        return RawRows(
            self.kind,
            TokenTable.load(self.folder),
            self._injected_text or "",
            encoder.fast.name if encoder else "",
            tuple(self._notes),
            {number: example for _, number, example in self.lowest.all()},
        )

    def _write(self, batch: Sequence[Texts], ids: Ragged, refuse: Refuse | None) -> None:
        """An example whose trained tokens cannot be told apart is refused; the others are written."""
        assert self.work.to_ids is not None
        rendered = [one for each in batch for one in each.rendered]
        places = [each.example.place for each in batch for _ in each.rendered]
        try:
            rows = self.encoder.rows(batch, self.work.to_ids.tokens(rendered, ids, places))
        except DataError as error:
            if refuse is None:
                raise
            if len(batch) == 1:
                refuse(batch[0].example, str(error))
            else:
                self._write_one_by_one(batch, ids, refuse)
            return
        self._add(batch, rows)

    def _write_one_by_one(self, batch: Sequence[Texts], ids: Ragged, refuse: Refuse) -> None:
        at = 0
        for each in batch:
            end = at + len(each.rendered)
            self._write([each], Ragged.of(ids[i] for i in range(at, end)), refuse)
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
    work: Work, render: Callable[[Work, Any], Texts], example: Example, refuse: Refuse | None
) -> Texts | None:
    try:
        return render(work, example)
    except RowRefused as error:
        if refuse is None:
            raise
        refuse(example, str(error))
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

    def all(self) -> list[tuple[int, int, Example]]:
        """(hash, number, example), the lowest hash first."""
        return sorted(((-one[0], *one[1:]) for one in self._kept), key=lambda one: one[0])


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    each = iter(examples)
    while batch := list(islice(each, BATCH)):
        yield batch
