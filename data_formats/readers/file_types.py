"""What the reader of a file type gives and stands on: records, broken rows, open files, decoded lines."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, cast

from posttrain.errors import DataFileError

# A line of gigabytes, or of a few packed kilobytes that unpack to them, must not take all memory.
LONGEST_LINE, MOST_UNPACKED = 2**26, 2**32  # bytes


@dataclass(frozen=True, slots=True)
class Record:
    place: str  # "chat.jsonl:17" is a line; "chat.json[17]" and "rows[17]" count from 0
    value: Any  # an object of named fields, if the file is right; a Broken, if the row cannot be read


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that cannot be read, though the rows around it can."""

    text: str  # as it stands in the file
    reason: str  # "not valid JSON at column 9 (...); each line must be one JSON object"


def suffix_of(path: Path) -> str:
    """The type of a file: '.jsonl' of a.jsonl, and of a.jsonl.gz."""
    return (Path(path.stem) if is_gzip(path) else path).suffix.lower()


def is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def reading(path: Path) -> Iterator[BufferedReader]:
    """The bytes of a file, unpacked if it is a .gz; what goes wrong while they are read is one sentence."""
    try:
        with path.open("rb") as file:
            # GzipFile alone splits lines in Python; BufferedReader asks of it only what it has
            yield BufferedReader(cast(Any, gzip.GzipFile(fileobj=file))) if is_gzip(path) else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataFileError(
            f"{path}: the file is no whole gzip file ({error}); copy or pack it anew."
        ) from None
    except OSError as error:
        raise DataFileError(f"{path}: the file cannot be read ({error.strerror or error}).") from None


def lines_of(file: BufferedReader | BytesIO, path: Path) -> Iterator[bytes]:
    """The lines of a file of text, without its byte order mark; at least one."""
    return chain([without_mark(line_of(file, path, 1), path)], _lines(file, path))


def _lines(file: BufferedReader | BytesIO, path: Path) -> Iterator[bytes]:
    number = 2
    while line := line_of(file, path, number):
        yield line
        number += 1


def line_of(file: BufferedReader | BytesIO, path: Path, number: int) -> bytes:
    """The rest of the line at which a file stands. Raises DataFileError for one that no row is."""
    line = file.readline(LONGEST_LINE)
    if len(line) >= LONGEST_LINE:
        raise DataFileError(
            f"{path.name}:{number}: the line is longer than {LONGEST_LINE >> 20} MiB, which no row is; "
            "write one row a line."
        )
    return line


def unpacked(file: BufferedReader, path: Path) -> bytes:
    """All bytes. Raises DataFileError where a small .gz holds more than memory should be given to."""
    if not is_gzip(path):
        return file.read()
    data = bytearray()
    while piece := file.read(2**20):  # room for all that might come is not asked for
        data += piece
        if len(data) >= MOST_UNPACKED:
            raise DataFileError(
                f"{path}: unpacked it is larger than {MOST_UNPACKED >> 20} MiB, and an array is read as a whole; "
                "write one JSON object a line into a .jsonl.gz file."
            )
    return bytes(data)


def without_mark(data: bytes, path: Path) -> bytes:
    """The beginning of a file of text without the byte order mark of UTF-8."""
    # without a mark, the first letter of UTF-16 has a zero byte before or behind it
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:2]:
        raise DataFileError(f"{path.name}:1: the file is UTF-16; save it as UTF-8.")
    return data.removeprefix(codecs.BOM_UTF8)


def decode(data: bytes, path: Path, line: int = 1) -> str:
    """UTF-8 to text; `line` is the number of the first line of `data`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataFileError(f"{path.name}:{line}: {encoding_fault(error)}.") from None


def encoding_fault(error: UnicodeDecodeError) -> str:
    data, at = error.object, error.start
    column = at - data.rfind(b"\n", 0, at)
    return f"byte {column} of the line (0x{data[at]:02x}) is not UTF-8; save the file as UTF-8"
