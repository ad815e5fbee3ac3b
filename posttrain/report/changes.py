"""Held-out numbers before and after a stage, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.pipeline.interval import direction

_FORGETTING = ("neutral_", "own_", "probe_")  # of a comparison with the model that came in


def changes_of(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{"name", "before", "after", "verdict", and their intervals where there are}]."""
    return [
        _change(name, metrics, intervals)
        for name in _measured_twice(metrics)
        if not name.startswith(_FORGETTING)
    ]


def forgetting_of(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same of abilities that should stay, and {"name", "value"} of distances to earlier models."""
    twice = [name for name in _measured_twice(metrics) if name.startswith(_FORGETTING)]
    once = [
        {"name": name, "value": value, "interval": intervals.get(name)}
        for name, value in metrics.items()
        if name.startswith(_FORGETTING) and not name.endswith(("_before", "_after"))
    ]
    return [_change(name, metrics, intervals) for name in twice] + once


def _measured_twice(metrics: Mapping[str, Any]) -> list[str]:
    names = [name.removesuffix("_before") for name in metrics if name.endswith("_before")]
    return [name for name in names if f"{name}_after" in metrics]


def _change(name: str, metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> dict[str, Any]:
    before, after = metrics[f"{name}_before"], metrics[f"{name}_after"]
    sure = intervals.get(f"{name}_change")
    return {
        "name": name,
        "before": before,
        "after": after,
        "before_interval": intervals.get(f"{name}_before"),
        "after_interval": intervals.get(f"{name}_after"),
        "change_interval": sure,
        "verdict": _verdict(name, before, after - before, sure),
    }


def _verdict(name: str, before: float, change: float, interval: Mapping[str, Any] | None) -> str:
    """ "better", "worse", "noise" where other rows might have shown no change; "" where neither way is better.

    Where no interval is known, a change of less than a hundredth is neither.
    """
    if interval is not None and interval["low"] <= 0 <= interval["high"]:
        return "noise"
    if interval is None and abs(change) < 0.01 * abs(before):
        return ""
    return ("worse", "", "better")[1 + direction(name) * ((change > 0) - (change < 0))]
