"""How sure a held-out number is: 95 % bootstrap intervals, paired row by row where a model is compared with itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..pipeline import Interval

if TYPE_CHECKING:
    import numpy as np

_DRAWS, _FEWEST_DRAWS = 1000, 200
_ROWS = 500_000  # of all draws together: with many rows fewer draws say as much
_SEED = 0  # the same rows give the same interval in every run
_LOST = 0.05  # of the draws may have no value, such as those without any row of a class


@dataclass(frozen=True)
class Measured:
    """Held-out numbers, kept so that any selection of their rows gives them again."""

    rows: int
    of: Callable[[np.ndarray], Mapping[str, float]]  # places of rows, some twice, some not at all
    details: Mapping[str, Any] = field(
        default_factory=dict
    )  # what is no number, such as a table of confusions

    @classmethod
    def means(cls, **values: Sequence[float]) -> Measured:
        """Of numbers that are means over rows: one value for each row."""
        import numpy as np

        arrays = {name: np.asarray(each, dtype=float) for name, each in values.items()}
        rows = len(next(iter(arrays.values())))
        return cls(rows, lambda at: {name: float(each[at].mean()) for name, each in arrays.items()})

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Of all rows."""
        import numpy as np

        return dict(self.of(np.arange(self.rows)))


def before_and_after(
    before: Sequence[Measured], after: Sequence[Measured]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """(numbers as "loss_before" and "loss_after", intervals of these and of "loss_change").

    Both were measured on the same rows in the same order. The interval of a change is that of the paired differences:
    every draw takes the same rows before and after (Efron & Tibshirani 1993, percentile intervals).
    """
    numbers: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for suffix, measured in (("before", before), ("after", after)):
        numbers |= {f"{name}_{suffix}": value for one in measured for name, value in one.numbers.items()}
    for first, second in zip(before, after, strict=True):
        drawn = _drawn({"before": first, "after": second})
        for name in first.numbers.keys() & second.numbers.keys():
            drawn[f"{name}_change"] = drawn[f"{name}_after"] - drawn[f"{name}_before"]
        intervals |= _bounds(drawn, first.rows)
    return numbers, intervals


def plain(measured: Sequence[Measured]) -> tuple[dict[str, float], dict[str, Interval]]:
    """(numbers, intervals) of what was measured once."""
    numbers = {name: value for one in measured for name, value in one.numbers.items()}
    intervals: dict[str, Interval] = {}
    for one in measured:
        intervals |= _bounds(_drawn({"": one}), one.rows)
    return numbers, intervals


def _drawn(measured: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """The numbers of each draw, by "<name>_<suffix>"; NaN in draws that have none."""
    import numpy as np

    rows = next(iter(measured.values())).rows
    assert all(one.rows == rows for one in measured.values()), "a paired difference is one of the same rows"
    draws = min(_DRAWS, max(_FEWEST_DRAWS, _ROWS // max(1, rows)))
    generator = np.random.default_rng(_SEED)
    names = {
        (suffix, name): f"{name}_{suffix}" if suffix else name
        for suffix, one in measured.items()
        for name in one.numbers
    }
    drawn = {key: np.full(draws, np.nan) for key in names.values()}
    for draw in range(draws):
        at = generator.integers(0, rows, size=rows)
        for suffix, one in measured.items():
            for name, value in _of(one, at).items():
                if (suffix, name) in names:
                    drawn[names[suffix, name]][draw] = value
    return drawn


def _of(measured: Measured, at: np.ndarray) -> Mapping[str, float]:
    try:
        return measured.of(at)
    except (ArithmeticError, ValueError):  # a metric that has no value for these rows
        return {}


def _bounds(drawn: Mapping[str, np.ndarray], rows: int) -> dict[str, Interval]:
    import numpy as np

    found = {}
    for name, values in drawn.items():
        kept = values[np.isfinite(values)]
        if len(kept) and len(kept) >= (1 - _LOST) * len(values):
            low, high = np.quantile(kept, [0.025, 0.975])
            found[name] = Interval(float(low), float(high), rows)
    return found
