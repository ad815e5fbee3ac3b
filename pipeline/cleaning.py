"""What of a run folder is needed no more, and how much it weighs. Nothing that a run could go on from is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .durable import read_sealed
from .lock import run_lock
from .run import RUN_FILE, STAGE_FILE
from .run_list import RunState, find_runs, read_state, weigh


@dataclass(frozen=True)
class Leftover:
    """Something that can be deleted."""

    run: Path
    path: Path
    why: str
    bytes: int


def leftovers(folder: Path, older: bool = False) -> list[Leftover]:
    """Of the run folders at and below `folder`. older: finished stages of earlier settings, too, which the newest run
    does not use.

    Those of `left_alone` are not looked at. Raises RunFolderError when there is no such folder.
    """
    skipped = {state.folder for state in left_alone(folder)}
    return [
        Leftover(run, path, why, _size(path))
        for run in find_runs(folder)
        if run.resolve() not in skipped
        for path, why in _of_run(run, older)
    ]


def left_alone(folder: Path) -> list[RunState]:
    """The runs below `folder` that are at work, and those whose records cannot be read."""
    states = [read_state(run) for run in find_runs(folder)]
    return [state for state in states if state.status in ("running", "damaged")]


def delete(found: list[Leftover]) -> int:
    """Delete them; returns the bytes. Raises RunLockedError when a run has begun to work in the meantime."""
    freed = 0
    for run in dict.fromkeys(one.run for one in found):
        with run_lock(run):
            for one in (one for one in found if one.run == run):
                shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink(missing_ok=True)
                freed += one.bytes
    return freed


def _of_run(run: Path, older: bool) -> Iterator[tuple[Path, str]]:
    used = set()
    if (run / RUN_FILE).is_file():
        used = {run / entry["folder"] for entry in read_sealed(run / RUN_FILE)["stages"]}
    yield from ((path, "half-written") for path in run.glob(".*.tmp"))
    for stage in sorted(path for path in (run / "stages").glob("*") if _is_own(path)):
        finished = (stage / STAGE_FILE).is_file()
        if stage not in used and not finished:
            yield stage, "unfinished stage of earlier settings"
        elif stage not in used and older:
            yield stage, "finished stage of earlier settings"
        else:
            yield from _inside(stage, finished)


def _inside(stage: Path, finished: bool) -> Iterator[tuple[Path, str]]:
    checkpoints = stage / "checkpoints"
    yield from ((path, "half-written") for path in stage.glob(".*.tmp"))
    if _is_own(stage / "scratch"):
        yield stage / "scratch", "of a stopped trainer"
    if finished and _is_own(checkpoints):
        yield checkpoints, "checkpoints of a finished stage"
        return
    damaged = set(checkpoints.glob("step-*.corrupt-*"))
    # Without a whole one they are what says that the stage must not begin anew.
    if set(checkpoints.glob("step-*")) - damaged:
        yield from ((path, "damaged, put aside") for path in sorted(damaged))


def _is_own(path: Path) -> bool:
    """A folder, and no link to one: what is elsewhere is not deleted."""
    return path.is_dir() and not path.is_symlink()


def _size(path: Path) -> int:
    return weigh(path)[0] if path.is_dir() else path.stat().st_size
