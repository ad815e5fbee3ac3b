"""The next token of each row, from numbers that its seed alone decides, whatever rows stand beside it.

# B rows, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """temperature 0: the likeliest token. top_p: the share of the probability, likeliest tokens first, to draw from."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return (
            self.temperature < 1e-4
        )  # below, quotients overflow, and the likeliest token has all the probability


class Draws:
    """The random numbers of one answer."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> float:
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def pick(logits_BV: Tensor, how: Sequence[Sampling], draws: Sequence[Draws]) -> list[int]:
    """One token for each row."""
    chosen = logits_BV.argmax(-1).tolist()
    for nucleus in (False, True):
        rows = [i for i, one in enumerate(how) if not one.greedy and (one.top_p < 1) == nucleus]
        if not rows:
            continue
        temperatures, top_ps, numbers = (
            torch.tensor(values, device=logits_BV.device, dtype=torch.float64)
            for values in zip(
                *((how[i].temperature, how[i].top_p, draws[i].next()) for i in rows), strict=True
            )
        )
        probabilities_BV = torch.softmax(logits_BV[rows].double() / temperatures[:, None], -1)
        drawn = (
            _from_nucleus(probabilities_BV, top_ps, numbers)
            if nucleus
            else _from_all(probabilities_BV, numbers)
        )
        for row, token in zip(rows, drawn, strict=True):
            chosen[row] = token
    return chosen


def _from_all(probabilities_BV: Tensor, numbers_B: Tensor) -> list[int]:
    """By inverting the distribution function."""
    sums_BV = probabilities_BV.cumsum(-1)
    at_B1 = numbers_B[:, None] * sums_BV[:, -1:]
    found_B1 = torch.searchsorted(sums_BV, at_B1, right=True).clamp(max=sums_BV.shape[1] - 1)
    return [int(token) for token in found_B1]


def _from_nucleus(probabilities_BV: Tensor, top_ps_B: Tensor, numbers_B: Tensor) -> list[int]:
    """The same over the likeliest tokens that together reach top_p."""
    # Tokens below (1 - top_p) / V have less than 1 - top_p together, so they are never needed.
    least_B1 = (1 - top_ps_B[:, None]) / probabilities_BV.shape[1]
    most = max(1, int((probabilities_BV >= least_B1).sum(-1).max()))
    likeliest_BK, tokens_BK = probabilities_BV.topk(most)
    sums_BK = likeliest_BK.cumsum(-1)
    last_B1 = (sums_BK < top_ps_B[:, None]).sum(-1, keepdim=True).clamp(max=most - 1)
    at_B1 = numbers_B[:, None] * sums_BK.gather(1, last_B1)
    found_B1 = torch.searchsorted(sums_BK, at_B1, right=True).minimum(last_B1)
    return [int(token) for token in tokens_BK.gather(1, found_B1)]
