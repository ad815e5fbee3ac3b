"""Rows that are in no file here: in memory, in a datasets.Dataset, or in a data set of the Hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.errors import DataFileError

from .file_types import Record

BATCH = 100
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def rows_of(rows: Any, name: str = "rows") -> Iterator[Record]:
    for number, row in enumerate(_iterate(rows)):
        yield Record(f"{name}[{number}]", row)


def _iterate(rows: Any) -> Iterator[Any]:
    kind = type(rows).__name__
    if type(rows).__module__.partition(".")[0] == "datasets":
        return _dataset_rows(rows)
    try:
        iterator = iter(rows)
    except TypeError:
        iterator = None
    if iterator is None or isinstance(rows, (Mapping, bytes)):
        raise DataFileError(f"Data must be a file or a list of rows, not a {kind}.")
    if iterator is rows:  # it is read more than once: to find its format, to check it, to encode it
        raise DataFileError(f"rows: the {kind} is an iterator that can be read once; give a list.")
    return iterator


def _dataset_rows(rows: Any) -> Iterator[Any]:
    from datasets import Dataset

    if isinstance(rows, Mapping):
        splits = ", ".join(f"['{split}']" for split in rows)
        raise DataFileError(f"rows: the {type(rows).__name__} holds the splits {splits}; give one of them.")
    if not isinstance(rows, Dataset):
        return iter(rows)  # an IterableDataset starts anew each time
    if rows.format["type"] != "custom":  # a transform of the user stays, tensors and data frames do not
        rows = rows.with_format(None, columns=rows.format["columns"])
    batches = rows.iter(batch_size=BATCH)
    return (
        dict(zip(batch, values, strict=True))
        for batch in batches
        for values in zip(*batch.values(), strict=True)
    )


def is_hub_id(path: Path) -> bool:
    """'owner/name', and there is no such file or folder; a name with a file's ending is a file that is missing."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None
    a_file = path.suffix[1:].isalpha()  # OpenHermes-2.5 has no ending, chat.jsonl has
    return named and not a_file and not path.exists() and not path.parent.is_dir()


@cache  # one download and one line about it for all passes of a process
def load_from_hub(name: str) -> Any:
    for variable in OFFLINE:
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DataFileError(
                f"{name}: there is no such file, and {variable} forbids to download it from the Hub; give a file."
            )
    print(f"downloading data set {name} from the Hub", file=sys.stderr, flush=True)
    try:
        from datasets import load_dataset

        return load_dataset(name, split="train")
    except Exception as error:  # of the network, the Hub, the files there: all mean that there are no rows
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise DataFileError(
            f"{name}: there is no such file, and the Hub gives no data set ({type(error).__name__}: {reason}); check the name, or download it and give the file."
        ) from None
