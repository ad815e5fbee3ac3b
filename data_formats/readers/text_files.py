"""Readers of text: JSON lines, JSON, and paragraphs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from posttrain.errors import DataFileError

from .file_types import Broken, Record, decode, encoding_fault, lines_of, reading, unpacked, without_mark

SPACE = re.compile(r"[ \t\r\n]*")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write null or leave the field out")


# A key that stands twice is not seen: an object_pairs_hook costs a fifth of the speed on dialogues.
DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_jsonl(path: Path) -> Iterator[Record]:
    with reading(path) as file:
        yield from records_of_lines(lines_of(file, path), path.name)


def records_of_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[Record]:
    """first: the number of the first line."""
    for number, data in enumerate(lines, first):
        place = f"{name}:{number}"
        try:
            line = data.decode().strip()
            if line:
                yield Record(place, _parse_line(line))
        except (ValueError, RecursionError) as error:
            broken = _broken(data, error)
            if number == 1 and broken.text.startswith("["):
                raise DataFileError(
                    f"{place}: {broken.reason}. A JSON array belongs into a .json file."
                ) from None
            yield Record(place, broken)


def _parse_line(line: str) -> Any:
    value, end = DECODER.raw_decode(line)  # quicker than decode, which looks for space on both sides
    return value if end == len(line) else DECODER.decode(line)


def _broken(data: bytes, error: Exception) -> Broken:
    if isinstance(error, UnicodeDecodeError):
        reason = encoding_fault(error)
    elif isinstance(error, json.JSONDecodeError):
        reason = f"not valid JSON at column {error.colno} ({error.msg}); each line must be one JSON object"
    else:
        reason = f"not valid JSON ({error})"
    return Broken(data.decode(errors="backslashreplace").strip(), reason)


def read_json(path: Path) -> Iterator[Record]:
    """A JSON array of rows; or an object whose "data" is one, as SQuAD and many exports are."""
    with reading(path) as file:
        text = decode(without_mark(unpacked(file, path), path), path)
    at = _skip_space(text, 0)
    if at == len(text):
        return
    if text[at] == "{":
        yield from _data_of_object(text, at, path)
        return
    if text[at] != "[":
        raise _no_array(path, text[at])
    number, at = 0, _skip_space(text, at + 1)
    while number > 0 or text[at : at + 1] != "]":
        value, at = _parse_element(text, at, path)
        yield Record(f"{path.name}[{number}]", value)
        number, at = number + 1, _skip_space(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise _bad_json(path, text, at, "Expecting ',' or ']'")
        at = _skip_space(text, at + 1)
    if _skip_space(text, at + 1) != len(text):
        raise _bad_json(path, text, _skip_space(text, at + 1), "Extra data after the array")


def _data_of_object(text: str, at: int, path: Path) -> Iterator[Record]:
    whole, end = _parse_element(text, at, path)
    rows = whole.get("data")
    if not isinstance(rows, list) or _skip_space(text, end) != len(text):
        raise _no_array(path, "{")
    for number, row in enumerate(rows):
        yield Record(f"{path.name} data[{number}]", row)


def _skip_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    assert match is not None  # the pattern matches nothing, too
    return match.end()


def _parse_element(text: str, at: int, path: Path) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _bad_json(path, text, error.pos, error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _bad_json(path, text, at, str(error)) from None


def _bad_json(path: Path, text: str, at: int, reason: str) -> DataFileError:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return DataFileError(f"{path.name}:{line}: not valid JSON at column {column} ({reason}).")


def _no_array(path: Path, start: str) -> DataFileError:
    return DataFileError(
        f"{path.name}: the file must be a JSON array of rows ([{{...}}, {{...}}]) and starts with '{start}'; one JSON object a line belongs into a .jsonl file."
    )


def read_txt(path: Path) -> Iterator[Record]:
    """Paragraphs, separated by blank lines, each as a row of the text format."""
    paragraph: list[str] = []
    start = 1
    with reading(path) as file:
        for number, data in enumerate(lines_of(file, path), 1):
            line = decode(data, path, number).rstrip("\r\n")
            if line.strip():
                start = start if paragraph else number
                paragraph.append(line)
            elif paragraph:
                yield Record(f"{path.name}:{start}", {"text": "\n".join(paragraph)})
                paragraph = []
    if paragraph:
        yield Record(f"{path.name}:{start}", {"text": "\n".join(paragraph)})
