"""The reader of .csv and .tsv: the first row names the columns, every cell is text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path

from posttrain.errors import DataFileError

from .file_types import Broken, Record, decode, lines_of, reading, suffix_of

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
LONGEST_CELL = (
    100_000_000  # characters; with no limit an open quote would draw the rest of the file into memory
)
FAULTS = {  # what the csv module says, and what it means
    "unexpected end of data": "a quote opens a cell and nothing closes it; close it, or double it if it is text",
    "field larger than": f"a cell has more than {LONGEST_CELL:,} characters; most likely its quote is never closed",
    "new-line character": "a carriage return stands in a cell without quotes; save the file with the line ends of Linux or Windows",
}


def read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))  # of the process; never lowered
    with reading(path) as file:
        lines = _lines(file, path)
        head = _until_text(lines)
        delimiter = "\t" if suffix_of(path) == ".tsv" else _delimiter(head[-1], f"{path.name}:{len(head)}")
        rows = _rows(chain(head, lines), delimiter, path)
        place, names, _ = next(rows, ("", [], ""))
        _check_names(names, place)
        for place, cells, text in rows:
            if len(cells) == len(names):
                yield Record(place, {name: cell or None for name, cell in zip(names, cells, strict=True)})
            else:
                yield Record(place, Broken(text, _miscount(cells, names)))


def _lines(file: BufferedReader, path: Path) -> Iterator[str]:
    for number, data in enumerate(lines_of(file, path), 1):
        if b"\0" in data:
            raise DataFileError(
                f"{path.name}:{number}: the line holds a NUL byte, which no text does; write the file anew."
            )
        yield decode(data, path, number)


def _until_text(lines: Iterator[str]) -> list[str]:
    """The lines up to the first that is not blank."""
    taken = []
    for line in lines:
        taken.append(line)
        if line.strip():
            break
    return taken


def _delimiter(header: str, place: str) -> str:
    bare = re.sub(r'"[^"]*("|$)', "", header)  # what stands in quotes is a part of a name
    counts = {delimiter: bare.count(delimiter) for delimiter in DELIMITERS}
    most = [delimiter for delimiter in DELIMITERS if counts[delimiter] == max(counts.values())]
    if len(most) > 1 and any(counts.values()):
        names = " and one ".join(DELIMITERS[delimiter] for delimiter in most)
        raise DataFileError(
            f"{place}: the header holds as often one {names}, so what separates its names is not clear; put names that hold one in double quotes."
        )
    return most[0]


def _rows(lines: Iterator[str], delimiter: str, path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Place, cells and text of each row; a row begins on one line and may end on a later one."""
    taken: list[str] = []

    def keep() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    table = csv.reader(keep(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        place = f"{path.name}:{table.line_num + 1}"
        try:
            cells = next(table, None)
        except csv.Error as error:
            meant = next((said for start, said in FAULTS.items() if str(error).startswith(start)), None)
            meant = meant or f"{error}; a quote inside a quoted cell is written twice"
            raise DataFileError(f"{place}: the row that starts here is not valid CSV: {meant}.") from None
        if cells is None:
            return
        if cells:  # a blank line has none
            yield place, cells, "".join(taken).rstrip("\r\n")


def _check_names(names: list[str], place: str) -> None:
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataFileError(
                f"{place}: column {number} of {len(names)} has no name; name it or remove it (pandas leaves out its index with index=False)."
            )
        if name != name.strip():
            raise DataFileError(f"{place}: the column name '{name}' has blanks around it; remove them.")
        if name in names[: number - 1]:
            raise DataFileError(f"{place}: two columns are called '{name}'; rename or remove one.")


def _miscount(cells: list[str], names: list[str]) -> str:
    if len(cells) > len(names):
        advice = "put a cell that holds the delimiter in double quotes"
    else:
        advice = "an empty cell keeps its delimiter, and a cell that holds a line end stands in double quotes"
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"has {count} where the header has {len(names)}; {advice}"
