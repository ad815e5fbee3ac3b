"""Large files of JSON lines in pieces at line ends, each handed out once, to whichever process asks next."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from .file_types import Record, is_gzip, line_of, lines_of, reading, suffix_of
from .paths import files_of
from .rows import is_hub_id
from .text_files import records_of_lines

PIECE = 2**22  # bytes, and up to the end of the line
_NOTE = 100  # bytes


def files_in_pieces(source: Any) -> list[Path]:
    """The files of a source, if they are plain JSON lines and more than one piece; else none."""
    if not isinstance(source, (str, Path)) or is_hub_id(Path(source)):
        return []
    files = files_of(Path(source))
    plain = all(suffix_of(file) == ".jsonl" and not is_gzip(file) for file in files)
    return files if plain and sum(file.stat().st_size for file in files) > PIECE else []


@dataclass(frozen=True, slots=True)
class Piece:
    number: int  # among the pieces of its source, from 0
    path: Path
    line: int  # the number of its first line
    data: bytes

    def records(self) -> Iterator[Record]:
        file = BytesIO(self.data)
        lines = lines_of(file, self.path) if self.line == 1 else file
        return records_of_lines(lines, self.path.name, self.line)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next piece begins."""

    number: int = 0
    file: int = 0
    offset: int = 0  # bytes
    line: int = 1


def next_piece(files: Sequence[Path], at: Position, size: int) -> tuple[Piece, Position] | None:
    """The piece at a position and the position behind it. Raises DataFileError for a file that cannot be read."""
    for number in range(at.file, len(files)):
        offset, line = (at.offset, at.line) if number == at.file else (0, 1)
        with reading(files[number]) as file:
            file.seek(offset)
            # The first is small: what it shows about tokenizer and template is soon told to all.
            data = file.read(size if at.number else max(1, size // 4))
            if data:
                data += (
                    b"" if data.endswith(b"\n") else line_of(file, files[number], line + data.count(b"\n"))
                )
                behind = Position(at.number + 1, number, offset + len(data), line + data.count(b"\n"))
                return Piece(at.number, files[number], line, data), behind
    return None


def pieces_of(files: Sequence[Path]) -> Iterator[Piece]:
    at = Position()
    while found := next_piece(files, at, PIECE):
        piece, at = found
        yield piece


@dataclass(frozen=True)
class SharedPieces:
    """The pieces of files for several processes: a note on disk says where the next one begins."""

    files: Sequence[Path]
    note: Path
    size: int  # bytes

    @classmethod
    def start(cls, files: Sequence[Path], note: Path) -> SharedPieces:
        note.write_bytes(_noted(Position()))
        return cls(files, note, PIECE)

    def take(self) -> Piece | None:
        """The next piece, which no other process gets."""
        with self._locked() as note:
            found = next_piece(self.files, _read(note), self.size)
            if found is None:
                return None
            piece, behind = found
            os.pwrite(note, _noted(behind), 0)
            return piece

    def taken(self) -> int:
        """How many were handed out so far."""
        with self._locked() as note:
            return _read(note).number

    @contextmanager
    def _locked(self) -> Iterator[int]:
        import fcntl

        note = os.open(self.note, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(note, fcntl.LOCK_EX)  # until it is closed
            yield note
        finally:
            os.close(note)


def _noted(at: Position) -> bytes:
    """Always of one length, so that one write replaces the one before."""
    return json.dumps(astuple(at)).ljust(_NOTE).encode()


def _read(note: int) -> Position:
    return Position(*json.loads(os.pread(note, _NOTE, 0)))
