"""Readers of Parquet and Arrow files: batch by batch, every value as plain Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.errors import DataFileError

from .file_types import Record

BATCH = 100  # rows that are Python at one time; one may be large
Change = Callable[[Any], Any]


def read_parquet(path: Path) -> Iterator[Record]:
    from pyarrow.parquet import ParquetFile

    # not the whole column of a row group at once, which may be the whole file
    with _in_words(path, "Parquet"), ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from _records(path, file.schema_arrow, file.iter_batches(BATCH, use_threads=False))


def read_arrow(path: Path) -> Iterator[Record]:
    """Both layouts of Arrow IPC: the file with an index at its end (Feather), and the stream of `datasets`."""
    import pyarrow

    with _in_words(path, "Arrow"), pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pyarrow.ipc.open_file(source)
            yield from _records(path, file.schema, map(file.get_batch, range(file.num_record_batches)))
        else:
            source.seek(0)
            stream = pyarrow.ipc.open_stream(source)
            yield from _records(path, stream.schema, stream)


def _records(path: Path, schema: Any, batches: Iterable[Any]) -> Iterator[Record]:
    import pyarrow

    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataFileError(f"{path.name}: two columns are called '{twice[0]}'; rename or remove one.")
    change = _json_inside(pyarrow.struct(list(schema)))
    number = 0
    for batch in batches:
        batch.validate(full=True)  # a damaged offset would be a crash instead of an error
        for start in range(0, batch.num_rows, BATCH):
            for row in batch.slice(start, BATCH).to_pylist(maps_as_pydicts="strict"):
                yield Record(f"{path.name}[{number}]", change(row) if change else row)
                number += 1


@contextmanager
def _in_words(path: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except DataFileError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise DataFileError(
            f"{path.name}: the file is not readable as {kind} ({reason}); write it anew."
        ) from None


def _json_inside(kind: Any) -> Change | None:
    """What reads the JSON in values of a type; `datasets` writes fields of mixed types in Arrow's JSON type."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return partial(_unless_null, json.loads)
    if isinstance(kind, (pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType)):
        change = _json_inside(kind.value_type)
        return partial(_unless_null, partial(_in_list, change)) if change else None
    if isinstance(kind, pyarrow.StructType):
        changes = {field.name: change for field in kind if (change := _json_inside(field.type))}
        return partial(_unless_null, partial(_in_object, changes)) if changes else None
    return None


def _unless_null(change: Change, value: Any) -> Any:
    return None if value is None else change(value)


def _in_list(change: Change, values: list[Any]) -> list[Any]:
    return [change(value) for value in values]


def _in_object(changes: dict[str, Change], row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: change(row[name]) for name, change in changes.items()}
