"""From a file, a folder, the Hub or rows in memory to records that know their place, in plain Python."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from posttrain.errors import DataFileError

from ..examples import Source
from .file_types import Broken as Broken
from .file_types import Record as Record
from .paths import files_of, read_file
from .rows import is_hub_id, load_from_hub, rows_of


def records(source: Source) -> Iterator[Record]:
    if not isinstance(source, (str, Path)):
        return rows_of(source)
    if is_hub_id(Path(source)):
        return rows_of(load_from_hub(str(source)), str(source))
    return chain.from_iterable(map(read_file, files_of(Path(source))))


def name_of(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else "rows"


def digest(source: Source, of_file: Callable[[Path], str] | None = None) -> str:
    """The sha256 of the file's bytes, of a folder's names and bytes, or of rows as JSON with sorted keys.

    of_file: what gives the sha256 of a file, if somebody remembers it.
    """
    of_file = of_file or _digest_of_file
    if not isinstance(source, (str, Path)) or is_hub_id(Path(source)):
        return _digest_of_rows(records(source))
    files = files_of(Path(source))
    if not Path(source).is_dir():
        return of_file(files[0])
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(os.fsencode(file.name) + b"\0" + of_file(file).encode() + b"\n")
    return hashed.hexdigest()


def _digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataFileError(f"{path}: the file cannot be read ({error.strerror or error}).") from None


def _digest_of_rows(rows: Iterator[Record]) -> str:
    hashed = hashlib.sha256()
    for record in rows:
        try:
            line = json.dumps(dict(record.value), sort_keys=True, default=_as_text)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataFileError(f"{record.place}: the row cannot be written as JSON ({error}).") from None
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def _as_text(value: Any) -> str:
    """What columns of a table may hold beside JSON; a format that reads such a column refuses it."""
    if isinstance(value, (date, time, timedelta, Decimal, bytes)):
        return repr(value)
    raise TypeError(f"it holds a {type(value).__name__}")
