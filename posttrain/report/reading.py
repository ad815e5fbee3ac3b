"""Everything that the report shows, read from a run folder as plain JSON; a number that is not there is left out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import RunFolderError
from posttrain.pipeline.attempts import ATTEMPTS
from posttrain.pipeline.durable import inside, read_json, read_sealed
from posttrain.pipeline.events import ALARMS, METRICS, PROOFS, read_metrics
from posttrain.pipeline.lock import is_locked
from posttrain.pipeline.run import RUN_FILE, STAGE_FILE
from posttrain.pipeline.secrets import without_secrets

from .answers import side_by_side
from .attention import attention_of
from .changes import changes_of, forgetting_of
from .curves import Curve, curves_of, thin
from .health import health_of

Json = dict[str, Any]


def read_report(run_dir: Path) -> Json:
    """The report of a run, finished or not.

    Raises RunFolderError where there is no run, and CorruptArtifactError where a record was changed.
    """
    run_dir = Path(run_dir).expanduser().resolve()
    if not (run_dir / RUN_FILE).is_file():
        raise RunFolderError(f"{run_dir} is no run folder: it has no {RUN_FILE}.")
    run = read_sealed(run_dir / RUN_FILE)
    folders = {
        entry["name"]: inside(run_dir, entry["folder"], run_dir / RUN_FILE)
        for entry in run["stages"]
        if entry["folder"]
    }
    running = is_locked(run_dir)
    histories: dict[str, Sequence[Mapping[str, Any]]] = {
        name: read_metrics(folders[name] / METRICS) if name in folders else [] for name in run["pipeline"]
    }
    stages = [_stage(name, folders.get(name), run_dir, histories[name], running) for name in run["pipeline"]]
    return {
        "name": run_dir.name,
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "state": _state(stages, running),
        "model": run["model"],
        "start": run["start"],
        "seed": run["seed"],
        "posttrain": run["posttrain"],
        "attention": [item for stage in stages for item in attention_of(stage)],
        "stages": stages,
        "answers": side_by_side(stages),
        "curves": _curves(histories),
    }


# What is not known of a stage yet.
_UNKNOWN: Json = {
    "type": "", "folder": "", "steps": 0, "attempts": 0, "error": None, "settings": [], "plan": {}, "seed": None,
    "versions": {}, "machine": "", "command": "", "remote_code": False, "proofs": {}, "alarms": [], "health": None, "data": None, "samples": [],
    "seconds": None, "models": {}, "measured": {}, "changes": [], "forgetting": [], "numbers": {},
}  # fmt: skip


def _stage(
    name: str, folder: Path | None, run_dir: Path, history: Sequence[Mapping[str, Any]], running: bool
) -> Json:
    if folder is None:
        return {**_UNKNOWN, "name": name, "state": "waiting"}
    record = read_sealed(folder / STAGE_FILE) if (folder / STAGE_FILE).exists() else None
    attempts = read_metrics(folder / ATTEMPTS)
    started = [line for line in attempts if line["event"] == "started"]
    broken = attempts[-1] if attempts and attempts[-1]["event"] == "broken off" else None
    # `posttrain resume` needs this folder: to repeat the run somewhere else, the command that it stands for is needed.
    commands = [line["command"] for line in started if not line["command"].startswith("posttrain resume ")]
    stage = {
        **_UNKNOWN,
        **_picked(
            without_secrets({**started[-1], "command": commands[-1] if commands else ""}) if started else {}
        ),
        "name": name,
        "state": _stage_state(record, broken, running),
        "folder": folder.relative_to(run_dir).as_posix(),
        "steps": history[-1]["step"] if history else 0,
        "attempts": len(started),
        "error": broken if record is None else None,
        "proofs": read_json(folder / PROOFS) if (folder / PROOFS).exists() else {},
        "alarms": read_metrics(folder / ALARMS),
        "health": health_of(history),
    }
    if record is None:
        return stage
    metrics, intervals = record["metrics"], record.get("intervals", {})
    return {
        **stage,
        **_picked({**record, "settings": without_secrets(record["settings"])}),
        "numbers": metrics,
        "changes": changes_of(metrics, intervals),
        "forgetting": forgetting_of(metrics, intervals),
    }


def _picked(known: Mapping[str, Any]) -> Json:
    return {name: known[name] for name in _UNKNOWN if known.get(name) is not None}


def _stage_state(record: Any, broken: Mapping[str, Any] | None, running: bool) -> str:
    if record is not None:
        return "finished"
    if broken is not None:
        return "stopped" if broken["error"] == "RunInterrupted" else "failed"
    return "running" if running else "unfinished"


def _state(stages: Sequence[Json], running: bool) -> str:
    """Of the run: that of the first stage that is not finished, unless somebody is at work on it."""
    first = next((stage["state"] for stage in stages if stage["state"] != "finished"), "finished")
    return "running" if first == "waiting" and running else first


def _curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Json]:
    found: list[tuple[str, Curve]] = [
        (stage, curve) for stage, history in histories.items() for curve in curves_of(history)
    ]
    thinned = thin([curve for _, curve in found])
    return [
        {"stage": stage, "metric": curve.metric, "steps": list(few.steps), "values": list(few.values), "of": len(curve.steps)}
        for (stage, curve), few in zip(found, thinned, strict=True)
    ]  # fmt: skip
