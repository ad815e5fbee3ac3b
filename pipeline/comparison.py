"""Runs side by side: the metrics of their stages, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .run import Run, StageRecord

Table = Mapping[str, Mapping[str, Sequence[Any]]]  # stage -> name -> one value a run, None where it has none


@dataclass(frozen=True)
class Comparison:
    """Of runs in the order they were given."""

    metrics: Table
    settings: Table  # those that are not the same in all runs that have the stage


def compare(runs: Sequence[Run]) -> Comparison:
    """Stages are matched by name, in the order in which they first come."""
    names = list(dict.fromkeys(name for run in runs for name in run.stages))
    metrics, settings = {}, {}
    for name in names:
        records = [run.stages.get(name) for run in runs]
        metrics[name] = _table([_metrics(record) if record else None for record in records])
        set_to = _table([_settings(record) if record else None for record in records])
        there = [place for place, record in enumerate(records) if record]
        settings[name] = {
            setting: values
            for setting, values in set_to.items()
            if any(values[i] != values[there[0]] for i in there)
        }
    return Comparison(metrics, {name: differing for name, differing in settings.items() if differing})


def _table(columns: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    rows = dict.fromkeys(name for column in columns if column for name in column)
    return {name: [column.get(name) if column else None for column in columns] for name in rows}


def _metrics(record: StageRecord) -> dict[str, Any]:
    return {**record.metrics, "seconds": record.seconds}


def _settings(record: StageRecord) -> dict[str, Any]:
    return {"type": record.type} | {setting["name"]: setting["value"] for setting in record.settings}
