"""Where a running stage reports its numbers: files in its folder, the tracker, and the progress display."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import CorruptArtifactError

from .durable import read_json, sync_file, write_bytes, write_json
from .memory_use import held_bytes
from .progress import Display
from .ranks import Ranks
from .tracking import Tracker

METRICS = "metrics.jsonl"
PROOFS = "proofs.json"
ALARMS = "alarms.jsonl"


class StageEvents:
    """One stage's outlet for numbers. Each optimizer step stands in `metrics.jsonl` exactly once."""

    def __init__(
        self,
        folder: Path,
        display: Display,
        tracker: Tracker,
        *,
        memory: Callable[[], int | None] = lambda: None,  # bytes held now, for the line of a step
        changed: Callable[[], None] = lambda: None,  # called when a step is written
    ) -> None:
        self._memory, self._changed = memory, changed
        self._path = folder / METRICS
        self._alarms_path = folder / ALARMS
        self._proofs_path = folder / PROOFS
        # A stage that was killed keeps what was proven before; step 1 comes once.
        self.proofs = _read_proofs(self._proofs_path)
        self._display = display
        self._tracker = tracker

    def phase(self, text: str) -> None:
        """What the stage is doing now, for the display."""
        self._display.phase(text)

    def say(self, text: str) -> None:
        """Something good to know that stays on the display."""
        self._display.say(text)

    def prove(self, name: str, value: float) -> None:
        """Keep the number of a proof that held."""
        self.proofs[name] = float(value)
        write_json(self._proofs_path, self.proofs)

    def begin_steps(self, done: int, total: int, every: int = 1) -> None:
        """Training starts at step `done` of `total`; lines after it, from a killed attempt, are dropped.

        every: steps from one line to the next. Lines that were lost are said: they cannot be made again.
        """
        for path in (self._path, self._alarms_path):
            kept = [line for line in read_metrics(path) if line.get("step", math.inf) <= done]
            if path.exists():
                write_bytes(path, "".join(_as_line(line) for line in kept).encode())
        due, there = done // every, len(self.history())
        if there < due:
            self._display.note(
                f"{self._path} was damaged: it has {there} of the {due} lines up to step {done}; the model is none the worse"
            )
        self._display.begin_steps(done, total)

    def alarm(self, step: int, name: str, text: str) -> None:
        """Something runs away; each alarm once, in `alarms.jsonl` and on the display."""
        if name not in {line["name"] for line in self.alarms()}:
            self._append(self._alarms_path, {"step": step, "name": name, "text": text})
            self._display.note(f"step {step}: {text}")

    def alarms(self) -> list[dict[str, Any]]:
        """The alarms so far: [{"step", "name", "text"}]."""
        return read_metrics(self._alarms_path)

    def history(self) -> list[dict[str, Any]]:
        """The lines of the steps so far."""
        return read_metrics(self._path)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line: `step`, `loss`, ... A value that is no finite number is written as null."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        held = self._memory()
        self._append(self._path, {"step": step, **plain, **({} if held is None else {"memory_bytes": held})})
        self._tracker.log(step, metrics)
        self._display.step(step, metrics)
        self._changed()

    @classmethod
    def of(
        cls, ranks: Ranks, folder: Path, display: Display, tracker: Tracker, changed: Callable[[], None]
    ) -> StageEvents:
        """The outlet of the main rank; the others' leads nowhere."""
        if not ranks.main:
            return _Nowhere()
        return cls(folder, display, tracker, memory=held_bytes, changed=changed)

    def sync(self) -> None:
        """Have on the disk what was written so far: a checkpoint must not outlive the lines of its steps."""
        for path in (self._path, self._alarms_path):
            sync_file(path)

    @staticmethod
    def _append(path: Path, line: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))


class _Nowhere(StageEvents):
    """Of a rank that does not write."""

    def __init__(self) -> None:
        self.proofs = {}

    def phase(self, text: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def prove(self, name: str, value: float) -> None:
        self.proofs[name] = float(value)

    def begin_steps(self, done: int, total: int, every: int = 1) -> None:
        pass

    def alarm(self, step: int, name: str, text: str) -> None:
        pass

    def alarms(self) -> list[dict[str, Any]]:
        return []

    def history(self) -> list[dict[str, Any]]:
        return []

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def sync(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that a kill cut short, or that is damaged, is left out."""
    lines = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def _read_proofs(path: Path) -> dict[str, float]:
    """Raises CorruptArtifactError for a file that is damaged: what it proved is not taken again."""
    if not path.exists():
        return {}
    try:
        return {str(name): float(value) for name, value in read_json(path).items()}
    except (CorruptArtifactError, AttributeError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"{path} is damaged; delete it to go on without what was proven before training, or delete {path.parent} to "
            "train the stage again."
        ) from error


def _as_line(values: Mapping[str, Any]) -> str:
    return json.dumps(values) + "\n"
