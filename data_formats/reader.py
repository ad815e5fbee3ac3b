"""From a file, or rows in memory, to records that know their place; plain Python, never Arrow on raw rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import DataFileError

from .examples import Source
from .file_types import READERS, Record, open_file


def records(source: Source) -> Iterator[Record]:
    if not isinstance(source, (str, Path)):
        return _rows(source)
    path = find(Path(source))
    return READERS[path.suffix.lower()](path)


def name_of(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else "rows"


def digest(source: Source) -> str:
    """The sha256 of the file's bytes, or of the rows written as JSON with sorted keys."""
    if isinstance(source, (str, Path)):
        with open_file(find(Path(source))) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    hashed = hashlib.sha256()
    for record in _rows(source):
        try:
            line = json.dumps(dict(record.value), sort_keys=True, ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataFileError(f"{record.place}: the row cannot be written as JSON ({error}).") from None
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def find(path: Path) -> Path:
    """The path, if a reader can take it."""
    if path.is_dir():
        raise DataFileError(f"{path}: this is a folder; name one file in it.")
    if not path.exists() and re.fullmatch(r"[\w-]+/[\w-]+", str(path)) and not path.parent.is_dir():
        raise DataFileError(
            f"{path}: there is no such file, and data sets are not read from the Hub; download it and give the file."
        )
    if not path.exists():
        raise DataFileError(f"{path}: there is no such file.{_neighbours(path)}")
    if path.suffix.lower() not in READERS:
        known = ", ".join(READERS)
        raise DataFileError(
            f"{path}: files ending in '{path.suffix}' are not read; convert it to one of {known}."
        )
    return path


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder '{path.parent}' does not exist either."
    from difflib import get_close_matches

    near = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _rows(rows: Any) -> Iterator[Record]:
    if isinstance(rows, Mapping) or not hasattr(rows, "__getitem__"):
        raise DataFileError(f"Data must be a file or a list of rows, not a {type(rows).__name__}.")
    for number, row in enumerate(rows):
        yield Record(f"rows[{number}]", row)
