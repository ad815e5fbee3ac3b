"""How many rows of each source are trained when sources have shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain.errors import EmptyStageDataError

from ..data import Interleave

if TYPE_CHECKING:
    import numpy as np


def mixed(
    examples: np.ndarray,
    rows: np.ndarray,
    sizes: Sequence[int],
    shares: Sequence[float],
    interleave: Interleave,
) -> tuple[np.ndarray, str]:
    """(rows in their order, a note with "{names[0]}" for each source's name).

    examples: (all rows,) the example of each row; rows: those that can be trained; sizes: examples of each source,
    one source behind the other. "first_exhausted": as many rows as the shares allow without using one twice.
    "all_exhausted": as few as the shares allow with every row used; the others are repeated from their first on.
    """
    import numpy as np

    borders = np.cumsum([0, *sizes])
    source = np.searchsorted(borders, examples[rows], side="right") - 1
    of_source = [rows[source == i] for i in range(len(sizes))]
    for i, some in enumerate(of_source):
        if not len(some):
            raise EmptyStageDataError(
                f"Source {i + 1} of the mixture has no row left to train on; leave it out."
            )
    possible = [len(some) / share for some, share in zip(of_source, shares, strict=True)]
    total = min(possible) if interleave == "first_exhausted" else max(possible)
    wanted = [max(1, round(total * share)) for share in shares]
    chosen = [np.resize(some, count) for some, count in zip(of_source, wanted, strict=True)]
    # Row k of n stands at (k + 0.5) / n of the way, so that every source is spread over the whole.
    at = np.concatenate([(np.arange(count) + 0.5) / count for count in wanted])
    note = "; ".join(
        f"{{names[{i}]}}: {count} of the trained rows, {share:.0%}, made of {len(some)}"
        for i, (count, share, some) in enumerate(zip(wanted, shares, of_source, strict=True))
    )
    return np.concatenate(chosen)[np.argsort(at, kind="stable")], f"mixture: {note}"
