"""Where an export goes: a place that is free or ours, with room on its disk, filled aside and renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.errors import CorruptArtifactError, ExportError

from ...pipeline.durable import verify_folder

MANIFEST = "export.json"


def check_target(target: Path) -> None:
    """Raises ExportError for a place that holds anything but an unchanged export of ours, which is replaced."""
    advice = "move it, or choose another folder"
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{target} is a file; {advice}.")
    there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    if not there:
        return
    if MANIFEST not in there:
        raise ExportError(f"{target} is there already and is no export of posttrain; {advice}.")
    try:
        known = verify_folder(target, manifest_name=MANIFEST)["files"]
    except CorruptArtifactError as error:
        raise ExportError(f"{target} is an export that was changed since ({error}) {advice}.") from error
    if added := sorted(there - set(known) - {MANIFEST}):
        raise ExportError(f"{target} holds {added[0]}, which posttrain did not write; {advice}.")


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A folder beside the target whose name says that it is not finished; gone in the end, what killed ones left, too."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        if not _lives(left.name.removeprefix(f".{target.name}.").split(".")[0]):
            shutil.rmtree(left, ignore_errors=True)
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def values_in(weights: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
