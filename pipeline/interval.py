"""Between which bounds a number of a few rows would lie, had other rows been held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
