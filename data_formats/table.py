"""Token rows as flat arrays with offsets: small on disk, no copy on the way to the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

FILE = "tokens.safetensors"
RECORDS = "records.json"
UNTRAINED = -100
_NUMBER = ".number"  # ends the name of an array with one value for each row


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different length, one behind the other."""

    values: np.ndarray  # int32, all rows
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

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


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
        import numpy as np

        return np.diff(self.columns[column].offsets)

    @cached_property
    def tokens(self) -> int:
        return sum(len(column.values) for name, column in self.columns.items() if name != "labels")

    @cached_property
    def trained_tokens(self) -> int:
        if "labels" in self.columns:
            return int((self.columns["labels"].values != UNTRAINED).sum())
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

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {f"{name}.values": column.values for name, column in self.columns.items()}
        arrays |= {f"{name}.offsets": column.offsets for name, column in self.columns.items()}
        arrays |= {f"{name}{_NUMBER}": values for name, values in self.numbers.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, folder / FILE)
        if self.records:
            (folder / RECORDS).write_text(json.dumps(list(self.records)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TokenTable:
        from safetensors.numpy import load_file

        arrays = load_file(folder / FILE)
        numbers = {
            key.removesuffix(_NUMBER): arrays.pop(key) for key in list(arrays) if key.endswith(_NUMBER)
        }
        names = sorted({key.rpartition(".")[0] for key in arrays})
        kept = folder / RECORDS
        return cls(
            {name: Ragged(arrays[f"{name}.values"], arrays[f"{name}.offsets"]) for name in names},
            numbers,
            json.loads(kept.read_text("utf-8")) if kept.exists() else (),
        )

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

    if len(column.values) < 2**31:
        return pa.ListArray.from_arrays(column.offsets.astype(np.int32), column.values)
    return pa.LargeListArray.from_arrays(column.offsets, column.values)
