"""Learning rates that differ from parameter to parameter: an optimizer's groups, split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def by_parameter(model: Any, factors: Mapping[str, float]) -> dict[int, float]:
    """Factors of the learning rate by the identity of the parameter, from those by name.

    Raises KeyError for a name that the model has not.
    """
    parameters = dict(model.named_parameters())
    return {id(parameters[name]): factor for name, factor in factors.items()}


def split_by_rate(groups: Sequence[Mapping[str, Any]], factors: Mapping[int, float]) -> list[dict[str, Any]]:
    """The groups of an optimizer without state, each split into one per factor, highest learning rate first.

    A group has "params" and "lr"; factors are by identity, 1 where none is given.
    """
    split = []
    for group in groups:
        parts: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            parts.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        split += [
            {**group, "params": parts[factor], "lr": group["lr"] * factor}
            for factor in sorted(parts, reverse=True)
        ]
    return split
