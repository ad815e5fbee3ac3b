"""The runs below a folder as the page lists them: how each stands, and how far the stage at work is."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.data_formats.inspection_page import visible
from posttrain.errors import CorruptArtifactError, RunFolderError, RunInterrupted
from posttrain.pipeline.attempts import ATTEMPTS
from posttrain.pipeline.durable import inside, read_sealed
from posttrain.pipeline.events import ALARMS, METRICS, PROOFS, read_metrics
from posttrain.pipeline.launch import LAUNCH_FILE, Launch
from posttrain.pipeline.lock import is_locked
from posttrain.pipeline.run import OUTPUT_FILE, RUN_FILE, STAGE_FILE
from posttrain.pipeline.run_list import RunState, find_runs, is_run, read_state

from .training import Training

Json = dict[str, Any]
_ASKED_FOR = (RunInterrupted.__name__, KeyboardInterrupt.__name__)  # how such an error begins
_TAIL = 16 << 10  # bytes at the end of metrics.jsonl in which the last line stands


@dataclass
class Runs:
    """All runs below `root`, and those that are only being started."""

    root: Path
    training: Training
    _kept: dict[Path, tuple[Any, RunState]] = field(default_factory=dict)
    _listed: tuple[float, list[Json]] = (0.0, [])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def folders(self) -> dict[str, Path]:
        """The run folders by what they are called in addresses."""
        found = [*find_runs(self.root), *self.training.unborn]
        return {self.id_of(folder): folder for folder in found}

    def id_of(self, folder: Path) -> str:
        """Of the path below the root; a name may hold anything that a file system takes."""
        return hashlib.sha256(os.fsencode(os.path.relpath(folder, self.root))).hexdigest()[:12]

    def folder(self, id: str) -> Path:
        """Raises RunFolderError where no run is called that."""
        try:
            return self.folders()[id]
        except KeyError:
            raise RunFolderError("There is no such run here any more.") from None

    def listed(self, age: float = 0.0) -> list[Json]:
        """Every run, the newest change first. age: seconds that it may be old, so that many can follow it at once."""
        with self._lock:
            at, listed = self._listed
            if not listed or time.monotonic() - at >= age:
                rows = [self.row(id, folder) for id, folder in self.folders().items()]
                listed = sorted(rows, key=lambda row: -row["changed"])
                self._listed = time.monotonic(), listed
            return listed

    def row(self, id: str, folder: Path) -> Json:
        name = visible(os.fsdecode(os.path.relpath(folder, self.root)))
        row: Json = {
            "id": id, "name": folder.name if name == "." else name, "status": "starting", "stages": [], "changed": time.time(),
            "bytes": 0, "error": "", "step": None, "steps": None, "loss": None, "resumes": False, "chats": False,
            "output": (folder / OUTPUT_FILE).is_file(),
        }  # fmt: skip
        starting, failure = self.training.is_starting(folder), self.training.failed_start(folder)
        stopping = self.training.is_stopping(folder)
        if not is_run(folder):
            if starting:
                return row | ({"status": "stopping"} if stopping else {})
            return row | {"status": "failed", "error": visible(failure), "changed": 0.0}
        state = self._state(folder)
        status = "starting" if starting else state.status
        return row | {
            "status": "stopping" if stopping else status,
            "stages": [
                {"name": visible(name), "state": _of_stage(name, state, status)} for name in state.stages
            ],
            "changed": state.changed,
            "bytes": state.bytes,
            "error": "" if status in ("running", "starting") else visible(failure or _wrong(state)),
            "resumes": status in ("stopped", "failed") and _can_resume(folder),
            "chats": bool(state.finished),
            **(_progress(folder, state.last_stage) if status in ("running", "stopped") else {}),
        }

    def _state(self, folder: Path) -> RunState:
        """Weighing a folder reads all of it; of a run that is not at work it is done when something changed."""
        stamp = (*(_changed(folder / name) for name in (RUN_FILE, LAUNCH_FILE)), is_locked(folder))
        kept, state = self._kept.get(folder, (None, None))
        if state is None or kept != stamp or stamp[-1]:
            state = read_state(folder)
            self._kept[folder] = stamp, state
        return state


def stamp_of(folder: Path) -> str:
    """Changes whenever something that the report shows does."""
    paths = [folder / RUN_FILE, folder / LAUNCH_FILE]
    try:
        stages = sorted((folder / "stages").iterdir())
    except OSError:
        stages = []
    paths += [stage / name for stage in stages for name in (METRICS, ALARMS, PROOFS, ATTEMPTS, STAGE_FILE)]
    seen = [(str(path), _changed(path)) for path in paths] + [("", is_locked(folder))]
    if not is_run(folder):
        seen.append((OUTPUT_FILE, _changed(folder / OUTPUT_FILE)))
    return hashlib.sha256(repr(seen).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _changed(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _of_stage(name: str, state: RunState, status: str) -> str:
    if name in state.finished:
        return "finished"
    return status if name == state.last_stage and status != "starting" else "waiting"


def _wrong(state: RunState) -> str:
    """Why a run ended before its end; a stop that was asked for is nothing wrong."""
    return "" if state.status == "stopped" and state.error.startswith(_ASKED_FOR) else state.error


def _can_resume(folder: Path) -> bool:
    """What `posttrain resume` would refuse at once is not offered."""
    try:
        launch = Launch.read(folder)
    except CorruptArtifactError:
        return False
    if launch is None or launch.started.why_not or launch.started.processes > 1:
        return False
    return Path(launch.started.folder).is_dir()


def _progress(folder: Path, stage: str) -> Json:
    """{"step", "steps", "loss"} of the stage at work, as far as it is known."""
    try:
        entries = read_sealed(folder / RUN_FILE)["stages"]
        place = next(
            inside(folder, entry["folder"], folder / RUN_FILE) for entry in entries if entry["name"] == stage
        )
    except (CorruptArtifactError, StopIteration):
        return {}
    started = [line for line in read_metrics(place / ATTEMPTS) if line.get("event") == "started"]
    plan = (started[-1].get("plan") if started else None) or {}
    last = _last_line(place / METRICS)
    return {"step": last.get("step", 0), "steps": plan.get("steps"), "loss": last.get("loss")}


def _last_line(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
