"""Checkpoints of a running stage: written aside by the Trainer, committed by us, and only whole ones are read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from posttrain.errors import ArtifactMismatchError, CorruptArtifactError, NoValidCheckpointError

from ..pipeline.durable import adopt_folder, set_aside, verify_folder

_KEPT = 2
_PREFIX = "step-"
_log = logging.getLogger("posttrain")


def commit_checkpoint(written: Path, checkpoints: Path, step: int) -> Path:
    """Make the Trainer's folder the checkpoint of `step`; the two newest are kept.

    Raises ArtifactMismatchError for a file of weights that holds none.
    """
    for file in sorted(written.glob("*.safetensors")):
        _check_weights(file, step)
    checkpoints.mkdir(parents=True, exist_ok=True)
    target = checkpoints / f"{_PREFIX}{step}"
    adopt_folder(written, target, {"step": step})
    for old in _by_step(checkpoints)[_KEPT:]:
        shutil.rmtree(old)
    return target


def _check_weights(file: Path, step: int) -> None:
    """A model in parts that nobody puts together is saved as names and shapes without a value."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
        empty = [name for name in names if 0 in opened.get_slice(name).get_shape()]
    if empty or not names:
        found = f"no values for {empty[0]}" if empty else "no tensor"
        raise ArtifactMismatchError(
            f"The checkpoint of step {step} has {found} in {file.name}: the weights did not come together when they were "
            "saved. Start the run with recipes/launch/ddp.yaml, where each process holds the whole model."
        )


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
