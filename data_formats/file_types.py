"""One reader for each file type: the records of a file, each with its place."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from posttrain.errors import DataFileError

SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Record:
    place: str  # "chat.jsonl:17" is a line; "chat.json[17]" and "rows[17]" count from 0
    value: Any


def open_file(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataFileError(f"{path}: the file cannot be opened ({error.strerror}).") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write null or leave the field out")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(data: bytes, path: Path, line: int = 1) -> str:
    """UTF-8 with or without a byte order mark; `line` is the number of the first line of `data`."""
    if line == 1 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataFileError(f"{path.name}:1: the file is UTF-16; save it as UTF-8.")
    try:
        return data.removeprefix(codecs.BOM_UTF8 if line == 1 else b"").decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        column = error.start - data.rfind(b"\n", 0, error.start)
        bad = data[error.start]
        raise DataFileError(
            f"{path.name}:{line}: byte {column} of the line (0x{bad:02x}) is not UTF-8; save the file as UTF-8."
        ) from None


def _jsonl(path: Path) -> Iterator[Record]:
    with open_file(path) as file:
        for number, data in enumerate(file, 1):
            line = _decode(data, path, number).strip()
            if line:
                yield Record(f"{path.name}:{number}", _parse_line(line, path, number))


def _parse_line(line: str, path: Path, number: int) -> Any:
    try:
        return DECODER.decode(line)
    except json.JSONDecodeError as error:
        hint = " A JSON array belongs into a .json file." if number == 1 and line.startswith("[") else ""
        raise DataFileError(
            f"{path.name}:{number}: not valid JSON at column {error.colno} ({error.msg}); each line must be one JSON object.{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path.name}:{number}: not valid JSON ({error}).") from None


def _json(path: Path) -> Iterator[Record]:
    with open_file(path) as file:
        text = _decode(file.read(), path)
    at = _skip_space(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        raise DataFileError(
            f"{path.name}: the file must be a JSON array of rows ([{{...}}, {{...}}]) and starts with '{text[at]}'; one JSON object a line belongs into a .jsonl file."
        )
    number, at = 0, _skip_space(text, at + 1)
    while number > 0 or text[at : at + 1] != "]":
        value, at = _parse_element(text, at, path)
        yield Record(f"{path.name}[{number}]", value)
        number, at = number + 1, _skip_space(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise _bad_array(path, text, at, "Expecting ',' or ']'")
        at = _skip_space(text, at + 1)
    if _skip_space(text, at + 1) != len(text):
        raise _bad_array(path, text, _skip_space(text, at + 1), "Extra data after the array")


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    assert match is not None  # the pattern matches nothing, too
    return match.end()


def _parse_element(text: str, at: int, path: Path) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _bad_array(path, text, error.pos, error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _bad_array(path, text, at, str(error)) from None


def _bad_array(path: Path, text: str, at: int, reason: str) -> DataFileError:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return DataFileError(f"{path.name}:{line}: not valid JSON at column {column} ({reason}).")


def _txt(path: Path) -> Iterator[Record]:
    """Paragraphs, separated by blank lines, each as a row of the text format."""
    paragraph: list[str] = []
    start = 1
    with open_file(path) as file:
        for number, data in enumerate(file, 1):
            line = _decode(data, path, number).rstrip("\r\n")
            if line.strip():
                start = start if paragraph else number
                paragraph.append(line)
            elif paragraph:
                yield Record(f"{path.name}:{start}", {"text": "\n".join(paragraph)})
                paragraph = []
    if paragraph:
        yield Record(f"{path.name}:{start}", {"text": "\n".join(paragraph)})


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {".jsonl": _jsonl, ".json": _json, ".txt": _txt}
