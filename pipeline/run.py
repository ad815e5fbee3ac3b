"""The run folder as a reader sees it: what each stage made, in any process, on any day."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.errors import CorruptArtifactError, NoSuchStageError, RunFolderError

from .durable import inside, read_sealed, write_sealed
from .events import METRICS, read_metrics
from .interval import Interval
from .model_ref import ModelRef

RUN_FILE = "run.json"
STAGE_FILE = "stage.json"
REPORT_FILE = "report.html"  # written by a watcher
OUTPUT_FILE = "output.log"  # what a run prints that was started from a page


@dataclass(frozen=True)
class Change:
    """A held-out number before and after a stage."""

    name: str
    before: float
    after: float
    interval: Interval | None  # of the paired difference; None where the number is not one of rows

    @property
    def is_noise(self) -> bool:
        """Whether other held-out rows might have shown no change."""
        return self.interval is not None and self.interval.holds_zero


@dataclass(frozen=True, repr=False)
class StageRecord:
    """A finished stage."""

    name: str
    type: str
    key: str
    folder: Path
    models: Mapping[str, ModelRef]
    metrics: Mapping[str, float]
    data: Mapping[str, Any]
    proofs: Mapping[str, float]
    samples: Sequence[Mapping[str, str]]
    settings: Sequence[Mapping[str, Any]]
    seconds: float  # wall time of the attempt that finished it
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # by metric, and by "<metric>_change"
    # Of that attempt: peak_memory_bytes (above what the process held before; on a GPU the allocator's), disk_bytes.
    measured: Mapping[str, int] = field(default_factory=dict)
    rolled_back: str = ""  # why the chain went on from the model before it

    def __repr__(self) -> str:
        numbers = {name: round(value, 4) for name, value in self.metrics.items()}
        return f"StageRecord({self.name}, {self.seconds:.0f} s, {numbers})"

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict per optimizer step, from `metrics.jsonl`."""
        return read_metrics(self.folder / METRICS)

    @property
    def row_counts(self) -> dict[str, int]:
        """What became of the rows: read, trained_on, held_out, cut, dropped; the last two of both parts."""
        held_out: Mapping[str, Any] = self.data.get("held_out") or {}
        return {
            "read": self.data.get("rows_read", 0),
            "trained_on": self.data.get("rows_kept", 0),
            "held_out": self.data.get("rows_held_out", 0),
        } | {
            name: self.data.get(f"rows_{name}", 0) + held_out.get(f"rows_{name}", 0)
            for name in ("cut", "dropped")
        }

    @property
    def changes(self) -> list[Change]:
        """What was measured before and after."""
        names = [name.removesuffix("_before") for name in self.metrics if name.endswith("_before")]
        return [
            Change(
                name,
                self.metrics[f"{name}_before"],
                self.metrics[f"{name}_after"],
                self.intervals.get(f"{name}_change"),
            )
            for name in names
        ]

    def verify(self) -> None:
        """Raises CorruptArtifactError when a file of the stage's models changed since it was committed."""
        for model in self.models.values():
            try:
                model.verify()
            except CorruptArtifactError as error:
                raise CorruptArtifactError(
                    f"Stage {self.name} is finished, but {error} Restore that file, or delete {self.folder} to train "
                    "the stage again."
                ) from error

    def write(self, run_dir: Path) -> None:
        """Commit the record: from here on the stage is finished."""
        value = {name: getattr(self, name) for name in (*_PLAIN, *_LATER)} | {
            "models": {role: model.as_dict(run_dir) for role, model in self.models.items()},
            "intervals": {name: one.as_dict() for name, one in self.intervals.items()},
        }
        write_sealed(self.folder / STAGE_FILE, value)

    @classmethod
    def read(cls, folder: Path, run_dir: Path) -> StageRecord | None:
        """The record in a stage's folder, or None when the stage has not finished.

        Raises CorruptArtifactError when the record was changed or cut.
        """
        if not (folder / STAGE_FILE).exists():
            return None
        value = read_sealed(folder / STAGE_FILE)
        models = {role: ModelRef.from_dict(model, run_dir) for role, model in value["models"].items()}
        intervals = {name: Interval.from_dict(one) for name, one in value.get("intervals", {}).items()}
        plain = {name: value[name] for name in _PLAIN} | {
            name: value[name] for name in _LATER if name in value
        }
        return cls(folder=folder, models=models, intervals=intervals, **plain)


_PLAIN = ("name", "type", "key", "metrics", "data", "proofs", "samples", "settings", "seconds")
_LATER = ("measured",)  # that older run folders do not have


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder, read: `run["sft"].metrics`, `run.model.load()`."""

    folder: Path
    stages: Mapping[str, StageRecord]
    start: ModelRef  # the untrained model

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, stages: {', '.join(self.stages) or 'none'})"

    def __getitem__(self, name: str) -> StageRecord:
        if name not in self.stages:
            raise NoSuchStageError(
                f"{self.folder} has no finished stage {name!r}; it has {', '.join(self.stages) or 'none'}."
            )
        return self.stages[name]

    def __iter__(self) -> Iterator[StageRecord]:
        return iter(self.stages.values())

    @property
    def model(self) -> ModelRef:
        """The final policy; the untrained model when no stage made one."""
        return self._latest("policy") or self.start

    @property
    def reward_model(self) -> ModelRef | None:
        """The newest reward model, or None."""
        return self._latest("reward")

    @property
    def classifier(self) -> ModelRef | None:
        """The newest text classifier, or None."""
        return self._latest("classifier")

    @property
    def token_classifier(self) -> ModelRef | None:
        """The newest tagger of tokens, or None."""
        return self._latest("token_classifier")

    @property
    def language_models(self) -> dict[str, StageRecord]:
        """The stages that made a causal language model, by their names, whether the chain went on from it or not."""
        made = ((name, record.models.get("policy")) for name, record in self.stages.items())
        return {name: self.stages[name] for name, model in made if model and model.head == "causal_lm"}

    def _latest(self, role: str) -> ModelRef | None:
        made = [
            one.models[role] for one in self.stages.values() if role in one.models and not one.rolled_back
        ]
        return made[-1] if made else None

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run folder.

        Raises RunFolderError when the folder is none, CorruptArtifactError when a record was changed.
        """
        folder = Path(folder).expanduser().resolve()
        if not (folder / RUN_FILE).is_file():
            raise RunFolderError(f"{folder} is no run folder: it has no {RUN_FILE}.")
        value = read_sealed(folder / RUN_FILE)
        records = {}
        for entry in value["stages"]:
            place = inside(folder, entry["folder"], folder / RUN_FILE) if entry["folder"] else None
            record = StageRecord.read(place, folder) if place else None
            if record is not None:
                records[entry["name"]] = replace(record, rolled_back=entry.get("rolled_back", ""))
        return cls(folder, records, ModelRef.from_dict(value["start"], folder))


def remove_checkpoints(folder: Path) -> None:
    """Free what a finished stage needs no more."""
    for name in ("checkpoints", "scratch"):
        shutil.rmtree(folder / name, ignore_errors=True)
