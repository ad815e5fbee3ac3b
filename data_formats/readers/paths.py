"""From a path to the files that are read, or to the reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from posttrain.errors import DataFileError

from .arrow_files import read_arrow, read_parquet
from .csv_files import read_csv
from .file_types import Record, is_gzip, suffix_of
from .text_files import read_json, read_jsonl, read_txt

READERS: dict[str, Callable[[Path], Iterator[Record]]] = {  # all but the last three may be gzipped
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".txt": read_txt,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
PACKED = (".parquet", ".arrow", ".feather")
ABOUT = re.compile(r"(readme|licen[cs]e)\b", re.IGNORECASE)  # files about a data set


def read_file(path: Path) -> Iterator[Record]:
    return READERS[suffix_of(path)](path)


def files_of(path: Path) -> list[Path]:
    """The file, or the files of the folder in the order of their names, if readers can take all of them."""
    if path.is_dir():
        return _files_in(path)
    if not path.exists():
        raise DataFileError(f"{path}: there is no such file.{_neighbours(path)}")
    if suffix_of(path) not in READERS:
        known = ", ".join(READERS)
        raise DataFileError(
            f"{path}: files ending in '{path.suffix}' are not read; convert it to one of {known} (those of text also as .jsonl.gz, and so on)."
        )
    if is_gzip(path) and suffix_of(path) in PACKED:
        raise DataFileError(
            f"{path}: a {suffix_of(path)} file is not read out of a .gz; unpack it with gunzip."
        )
    return [path]


def _files_in(folder: Path) -> list[Path]:
    inside = {path.name: path for path in sorted(folder.iterdir(), key=lambda path: path.name)}
    if "dataset_dict.json" in inside:
        splits = ", ".join(f"'{path}'" for path in inside.values() if path.is_dir())
        raise DataFileError(f"{folder}: the folder holds the splits of a data set; name one of {splits}.")
    if {"state.json", "dataset_info.json"} <= set(inside):
        return _saved_shards(folder)
    files = [path for path in inside.values() if not path.is_dir() and not _is_aside(path)]
    unread = [path.name for path in files if suffix_of(path) not in READERS]
    if len(unread) == len(files):
        found, known = ", ".join(list(inside)[:10]) or "nothing", ", ".join(READERS)
        raise DataFileError(
            f"{folder}: the folder holds no file that is read (they end in {known}); in it: {found}."
        )
    if unread:
        raise DataFileError(
            f"{folder}: the folder also holds '{unread[0]}', which is not read; move it away, or name the files in a list instead of the folder."
        )
    return [checked for path in files for checked in files_of(path)]


def _is_aside(path: Path) -> bool:
    """Hidden, or about the data; "readme.jsonl" is data."""
    about = ABOUT.match(path.name) and (suffix_of(path) == ".txt" or suffix_of(path) not in READERS)
    return path.name.startswith(".") or bool(about)


def _saved_shards(folder: Path) -> list[Path]:
    """What datasets.save_to_disk wrote: beside the shards may lie caches, so its own list is asked."""
    try:
        listed = json.loads((folder / "state.json").read_bytes())["_data_files"]
        shards = [folder / Path(shard["filename"]).name for shard in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataFileError(
            f"{folder / 'state.json'}: this is no list of shards as datasets.save_to_disk writes it; save the data set anew."
        ) from None
    return [checked for path in shards for checked in files_of(path)]


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder '{path.parent}' does not exist either."
    from difflib import get_close_matches

    near = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
