"""Checkpoints of a running stage: written aside by the Trainer, committed by us, and only whole ones are read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from posttrain.errors import CorruptArtifactError, NoValidCheckpointError

from ..pipeline.durable import adopt_folder, set_aside, verify_folder

_KEPT = 2
_PREFIX = "step-"
_log = logging.getLogger("posttrain")


def commit_checkpoint(written: Path, checkpoints: Path, step: int) -> Path:
    """Make the Trainer's folder the checkpoint of `step`; the two newest are kept."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    target = checkpoints / f"{_PREFIX}{step}"
    adopt_folder(written, target, {"step": step})
    for old in _by_step(checkpoints)[_KEPT:]:
        shutil.rmtree(old)
    return target


def newest_whole_checkpoint(checkpoints: Path) -> tuple[Path, int] | None:
    """(folder, step) to go on from, or None when there is none yet; damaged ones are renamed to `*.corrupt-...`.

    Raises NoValidCheckpointError when there were checkpoints and none is whole: a start from scratch must be asked for.
    """
    damaged = []
    for folder in _by_step(checkpoints):
        try:
            verify_folder(folder)
        except CorruptArtifactError as error:
            damaged.append(f"{error} It is kept as {set_aside(folder).name}.")
            _log.warning("Checkpoint %s is damaged: %s", folder.name, damaged[-1])
            continue
        return folder, int(folder.name.removeprefix(_PREFIX))
    if damaged or any(checkpoints.glob("*.corrupt-*")):
        found = damaged[0] if damaged else "they were put aside earlier."
        raise NoValidCheckpointError(
            f"All checkpoints in {checkpoints} are damaged ({found}) Delete that folder to train the stage again."
        )
    return None


def _by_step(checkpoints: Path) -> list[Path]:
    """Committed checkpoints, newest first."""
    found = [
        path
        for path in checkpoints.glob(f"{_PREFIX}*")
        if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()
    ]
    return sorted(found, key=lambda path: -int(path.name.removeprefix(_PREFIX)))
