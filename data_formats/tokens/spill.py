"""Rows written to disk as they come and read back by memory map, so that memory stays flat as rows grow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO

from posttrain.errors import CorruptArtifactError

if TYPE_CHECKING:
    import numpy as np

INDEX = "table.json"
_TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip
_BUFFER = 2**20  # bytes


class Spill:
    """A table that is being written: columns of rows of different length, and one number for each row.

    columns, numbers: the dtype of each by name. Every `add` must give all of them.
    """

    def __init__(self, folder: Path, columns: Mapping[str, str], numbers: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._columns, self._numbers = dict(columns), dict(numbers)
        names = [*(f"{name}.{part}" for name in columns for part in ("values", "offsets")),
                 *(f"{name}.number" for name in numbers)]  # fmt: skip
        self._files: dict[str, BinaryIO] = {
            name: (folder / name).open("wb", buffering=_BUFFER) for name in names
        }
        for name in columns:
            self._files[f"{name}.offsets"].write(bytes(8))  # the first row begins at 0
        self._ends = dict.fromkeys(columns, 0)
        self.rows = 0

    def add(self, columns: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """One row: arrays, or bytes, whose items have their column's size."""
        self.add_rows(
            {name: (row, [len(row)]) for name, row in columns.items()},
            {name: [value] for name, value in numbers.items()},
        )

    def add_rows(
        self, columns: Mapping[str, tuple[Any, Sequence[int] | np.ndarray]], numbers: Mapping[str, Any]
    ) -> None:
        """Several rows: of each column (all values, length of each row); of each number all values."""
        import numpy as np

        count = 0
        for name, (values, lengths) in columns.items():
            self._files[f"{name}.values"].write(_bytes(values, self._columns[name]))
            ends = self._ends[name] + np.cumsum(lengths, dtype=np.int64)
            self._files[f"{name}.offsets"].write(ends.tobytes())
            count = len(ends)
            if count:
                self._ends[name] = int(ends[-1])
        for name, dtype in self._numbers.items():
            self._files[f"{name}.number"].write(np.asarray(numbers[name], dtype=dtype).tobytes())
        self.rows += count

    def extend(self, folder: Path, added: Mapping[str, int]) -> None:
        """All rows of a finished spill with the same columns. added: what its numbers grow by, by name."""
        import numpy as np

        for name in self._columns:
            with (folder / f"{name}.values").open("rb") as values:
                copyfileobj(values, self._files[f"{name}.values"], _BUFFER)
            ends = np.fromfile(folder / f"{name}.offsets", dtype=np.int64)[1:] + self._ends[name]
            self._files[f"{name}.offsets"].write(ends.tobytes())
            self._ends[name] = int(ends[-1]) if len(ends) else self._ends[name]
        for name, dtype in self._numbers.items():
            numbers = np.fromfile(folder / f"{name}.number", dtype=dtype)
            if name in added:
                numbers += np.asarray(added[name], dtype=dtype)
            self._files[f"{name}.number"].write(numbers.tobytes())
        self.rows += int(read_index(folder)["rows"])

    def finish(self) -> None:
        """Everything on disk; the index is written last."""
        for file in self._files.values():
            file.close()
        index = {"rows": self.rows, "columns": self._columns, "numbers": self._numbers}
        (self.folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _bytes(values: Any, dtype: str) -> bytes:
    if isinstance(values, bytes):
        return values
    import numpy as np

    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def read_index(folder: Path) -> dict[str, Any]:
    """{"rows", "columns", "numbers"}: the types of columns and numbers by their names.

    Raises CorruptArtifactError for one that is no type of numbers: numpy would take the bytes of a file for addresses.
    """
    index: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
    for name, dtype in (*index["columns"].items(), *index["numbers"].items()):
        if dtype not in _TYPES or not name.isidentifier():
            raise CorruptArtifactError(
                f"{folder / INDEX} has the column {name[:80]!r} of {str(dtype)[:20]!r}, which no table has; delete that "
                "folder, and it is made anew."
            )
    return index


def mapped(path: Path, dtype: str) -> np.ndarray:
    """The numbers of a file, without reading them."""
    import numpy as np

    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def part_of(values: np.ndarray, start: int, stop: int) -> np.ndarray:
    """values[start:stop] in memory of its own: what is looked at through a map counts as this process's memory."""
    import numpy as np

    if not isinstance(values, np.memmap) or values.filename is None:
        return values[start:stop]
    size = values.dtype.itemsize
    return np.fromfile(values.filename, values.dtype, stop - start, offset=values.offset + start * size)
