"""The numbers of the steps as curves, thinned so that a long run's page stays small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POINTS = 40_000  # of all curves of a page together
_LEAST = 60  # of one curve
_NO_CURVE = ("step", "epoch", "answers")


@dataclass(frozen=True)
class Curve:
    """One number over the steps of a stage."""

    metric: str
    steps: Sequence[int]
    values: Sequence[float | None]  # None where what was measured is no finite number

    def thinned(self, points: int) -> Curve:
        """At most about `points` of its points: of equal stretches of steps the lowest and the highest, and both ends."""
        count = len(self.steps)
        if count <= points:
            return self
        stretches = max(1, points // 2 - 1)
        kept = {0, count - 1}
        for i in range(stretches):
            part = range(i * count // stretches, (i + 1) * count // stretches)
            known = [at for at in part if self.values[at] is not None]
            kept |= {min(known, key=self._value), max(known, key=self._value)} if known else {part[0]}
        order = sorted(kept)
        return Curve(self.metric, [self.steps[i] for i in order], [self.values[i] for i in order])

    def _value(self, at: int) -> float:
        value = self.values[at]
        return math.nan if value is None else value


def curves_of(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """A curve for each number in the lines of `metrics.jsonl`, in the order in which they first occur."""
    found: dict[str, tuple[list[int], list[float | None]]] = {}
    for line in history:
        for name, value in line.items():
            if name in _NO_CURVE or isinstance(value, (bool, str)):
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value if value is not None and math.isfinite(value) else None)
    return [
        Curve(name, steps, values)
        for name, (steps, values) in found.items()
        if any(value is not None for value in values)
    ]


def thin(curves: Sequence[Curve]) -> list[Curve]:
    """All curves of a page, within POINTS."""
    each = max(_LEAST, POINTS // max(1, len(curves)))
    return [curve.thinned(each) for curve in curves]
