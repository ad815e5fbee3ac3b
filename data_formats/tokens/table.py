"""Token rows as flat arrays with offsets: small on disk, no copy on the way to the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import CorruptArtifactError

from .spill import Spill, mapped, part_of, read_index

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

UNTRAINED = -100
_PART = 2**22  # numbers looked at at once
RECORDS = "records"  # the column of JSON that is no token row


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different length, one behind the other."""

    values: np.ndarray  # int32 of tokens, all rows
    offsets: np.ndarray  # int64; row i is values[offsets[i]:offsets[i + 1]]

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Ragged:
        import numpy as np

        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        return cls(values, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        import numpy as np

        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, eq=False)
class Records(Sequence[Mapping[str, Any]]):
    """JSON objects, decoded when they are asked for."""

    lines: Ragged  # uint8

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[row] for row in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return json.loads(self.lines[i % len(self)].tobytes())


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Columns of token rows: input_ids and labels; or prompt_ids, and chosen_ids and rejected_ids, or completion_ids."""

    columns: Mapping[str, Ragged]
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)  # one for each row: margin, or label
    records: Sequence[Mapping[str, Any]] = ()  # of prompts alone: {"prompt", "columns"}, one for each row

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Iterable[Any]],
        numbers: Mapping[str, np.ndarray] | None = None,
        records: Sequence[Mapping[str, Any]] = (),
    ) -> TokenTable:
        return cls({name: Ragged.of(rows) for name, rows in columns.items()}, numbers or {}, records)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, i: int) -> dict[str, list[int]]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a table with {len(self)} rows")
        return {name: column[i].tolist() for name, column in self.columns.items()}

    def lengths(self, column: str) -> np.ndarray:
        return self.columns[column].lengths

    @cached_property
    def tokens(self) -> int:
        return sum(
            len(column.values) for name, column in self.columns.items() if name not in ("labels", "classes")
        )

    @cached_property
    def trained_tokens(self) -> int:
        if "classes" in self.columns:
            return self.tokens  # a head learns from each row as a whole
        if "labels" in self.columns:
            labels = self.columns["labels"].values
            parts = (part_of(labels, at, at + _PART) for at in range(0, len(labels), _PART))
            return sum(int((part != UNTRAINED).sum()) for part in parts)
        return sum(len(column.values) for name, column in self.columns.items() if name != "prompt_ids")

    def shuffled(self, seed: int) -> TokenTable:
        """The same rows in another order."""
        import numpy as np

        order = np.random.default_rng(seed).permutation(len(self))
        columns = {name: Ragged.of(column[i] for i in order) for name, column in self.columns.items()}
        records = [self.records[i] for i in order] if self.records else ()
        return TokenTable(columns, {name: values[order] for name, values in self.numbers.items()}, records)

    def joined(self) -> TokenTable:
        """Pairs with the prompt in front of both answers, as the reward trainer takes them."""
        import numpy as np

        prompts = self.columns["prompt_ids"]
        both = {
            name: [np.concatenate([prompts[i], self.columns[name][i]]) for i in range(len(self))]
            for name in ("chosen_ids", "rejected_ids")
        }
        return TokenTable({name: Ragged.of(rows) for name, rows in both.items()}, self.numbers)

    def in_memory(self) -> TokenTable:
        """A copy that needs no file."""
        import numpy as np

        columns = {name: Ragged(np.array(c.values), np.array(c.offsets)) for name, c in self.columns.items()}
        return TokenTable(
            columns, {name: np.array(v) for name, v in self.numbers.items()}, list(self.records)
        )

    def save(self, folder: Path) -> None:
        spill = Spill(
            folder,
            {name: str(column.values.dtype) for name, column in self.columns.items()}
            | ({RECORDS: "uint8"} if self.records else {}),
            {name: str(values.dtype) for name, values in self.numbers.items()},
        )
        lines = [json.dumps(record).encode() for record in self.records]
        written: dict[str, Any] = {
            name: (column.values, column.lengths) for name, column in self.columns.items()
        }
        if lines:
            written[RECORDS] = (b"".join(lines), [len(line) for line in lines])
        spill.add_rows(written, self.numbers)
        spill.finish()

    @classmethod
    def load(cls, folder: Path) -> TokenTable:
        """The table of a folder; its rows stay on disk until they are asked for."""
        index = read_index(folder)
        columns = {
            name: Ragged(
                mapped(folder / f"{name}.values", dtype), mapped(folder / f"{name}.offsets", "int64")
            )
            for name, dtype in index["columns"].items()
        }
        numbers = {name: mapped(folder / f"{name}.number", dtype) for name, dtype in index["numbers"].items()}
        records = columns.pop(RECORDS, None)
        return cls(columns, numbers, () if records is None else Records(records))

    def to_dataset(self, fingerprint: str) -> Dataset:
        """A datasets.Dataset over the same memory; with a fingerprint given, nothing is hashed."""
        import pyarrow as pa
        from datasets import Dataset

        arrays = {name: _arrow(column) for name, column in sorted(self.columns.items())}
        arrays |= {name: pa.array(values) for name, values in self.numbers.items()}
        return Dataset(pa.table(arrays), fingerprint=fingerprint)


def _arrow(column: Ragged) -> Any:
    import numpy as np
    import pyarrow as pa

    ends = column.offsets
    if ends[0] != 0 or ends[-1] != len(column.values) or (ends[1:] < ends[:-1]).any():  # Arrow does not look
        raise CorruptArtifactError(
            "A token table has rows outside of its file; delete it, and it is made anew."
        )
    if len(column.values) < 2**31:
        return pa.ListArray.from_arrays(column.offsets.astype(np.int32), column.values)
    return pa.LargeListArray.from_arrays(column.offsets, column.values)
