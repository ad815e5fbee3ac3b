"""Which runs there are below a folder, and how each stands; nothing is loaded or verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.errors import CorruptArtifactError, RunFolderError

from .durable import read_sealed
from .launch import LAUNCH_FILE, Launch
from .lock import is_locked
from .run import RUN_FILE, STAGE_FILE


@dataclass(frozen=True)
class RunState:
    """One run folder. changed: seconds since 1970. stopped: by a signal, or killed."""

    folder: Path
    status: Literal["finished", "running", "stopped", "failed", "damaged"]
    stages: tuple[str, ...]  # of the pipeline
    finished: tuple[str, ...]
    changed: float
    bytes: int
    error: str = ""

    @property
    def last_stage(self) -> str:
        """The stage at work, or where it ended: the first that is not finished; of a finished run the last."""
        left = [name for name in self.stages if name not in self.finished]
        return left[0] if left else (self.stages or ("",))[-1]


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or (folder / LAUNCH_FILE).is_file()


def find_runs(folder: Path) -> Iterator[Path]:
    """The run folders at and below `folder`, by name; what is inside one is not looked at.

    Raises RunFolderError when there is no such folder.
    """
    if not folder.is_dir():
        raise RunFolderError(f"There is no folder {folder}.")
    for place, below, _ in os.walk(folder):
        if is_run(Path(place)):
            below.clear()
            yield Path(place)
        below.sort()


def read_state(folder: Path) -> RunState:
    """How a run stands. Raises RunFolderError for a folder that is none."""
    folder = folder.expanduser().resolve()
    if not is_run(folder):
        raise RunFolderError(f"{folder} is no run folder: it has no {RUN_FILE}.")
    size, changed = weigh(folder)
    try:
        kept = (
            read_sealed(folder / RUN_FILE)
            if (folder / RUN_FILE).is_file()
            else {"stages": [], "pipeline": []}
        )
        launch = Launch.read(folder)
    except CorruptArtifactError as error:
        return RunState(folder, "damaged", (), (), changed, size, str(error))
    stages = launch.stages if launch else tuple(kept["pipeline"])
    done = tuple(one["name"] for one in kept["stages"] if (folder / one["folder"] / STAGE_FILE).is_file())
    if is_locked(folder):
        return RunState(folder, "running", stages, done, changed, size)
    if launch is None:
        status: Literal["finished", "stopped"] = "finished" if set(stages) <= set(done) else "stopped"
        return RunState(folder, status, stages, done, changed, size)
    if launch.status == "running":
        return RunState(folder, "stopped", stages, done, changed, size, "The process was killed.")
    return RunState(folder, launch.status, stages, done, changed, size, launch.error)


def weigh(folder: Path) -> tuple[int, float]:
    """(bytes of the files below, the newest change in seconds since 1970); a run at work may delete some meanwhile."""
    size, changed = 0, 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found = os.lstat(os.path.join(place, name))
                size, changed = size + found.st_size, max(changed, found.st_mtime)
    return size, changed
