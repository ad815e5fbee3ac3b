"""Between which bounds a number of a few rows would lie, had other rows been held out, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_LESS_IS_BETTER = {"loss", "nll", "perplexity", "kl", "unknown", "unparsable", "undesirable"}
_NEITHER = {"kl", "length", "similar_length", "entropy", "tie_rate", "reward_std"}  # whole names
_WORD = re.compile(r"[^._]+")


@dataclass(frozen=True)
class Interval:
    """95 % of the resampled values lie in it, bounds included."""

    low: float
    high: float
    rows: int  # that the number was measured on

    @property
    def holds_zero(self) -> bool:
        """Of a difference: whether it is inside the noise."""
        return self.low <= 0 <= self.high

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Interval:
        return cls(**value)


def less_is_better(name: str) -> bool:
    """Losses, perplexities and KLs are to be small, all other metrics large."""
    return not _LESS_IS_BETTER.isdisjoint(_WORD.findall(name))


def direction(name: str) -> int:
    """1 where a larger value of the metric is better, -1 where a smaller one is, 0 where a change is neither.

    A policy that learns moves away from its reference, so its KL says nothing by itself.
    """
    return 0 if name in _NEITHER else -1 if less_is_better(name) else 1
