"""What the largest batch of a table costs on a CPU, where neither padding nor what rows begin with alike is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...data_formats.tokens.table import UNTRAINED
from ...pipeline.beginnings import SHORTEST_SHARED, in_common

if TYPE_CHECKING:
    import numpy as np

    from ...data_formats import TokenTable
    from ..training_stage import TrainingStage

_LOOKED_AT = 256  # rows whose beginnings are compared


@dataclass(frozen=True)
class Batch:
    """tokens: that go through the layers. scored: of these, the ones whose logits are needed."""

    tokens: int
    scored: int


def largest_batch(stage: TrainingStage, table: TokenTable, rows: int, shares: bool) -> Batch:
    """Of the longest rows. rows: that go through the model at once. shares: whether beginnings are computed once."""
    columns = table.columns
    first = "prompt_ids" if "prompt_ids" in columns else next(iter(columns))
    lengths = {name: columns[name].lengths for name in columns if name not in ("labels", "classes")}
    longest = max(lengths[first]) if len(lengths) == 1 else 0
    sequences = stage.sequences_per_row
    if "chosen_ids" in columns:
        per_row = lengths["chosen_ids"] + lengths["rejected_ids"] + lengths[first] * (1 if shares else 2)
    elif len(lengths) == 1:  # a text, a dialogue, or a prompt whose answer comes on top
        per_row = (lengths[first] + stage.longest_sequence(int(longest)) - longest) * sequences
    else:
        per_row = sum(lengths.values()) * sequences
    chosen = per_row.argsort()[-rows:]
    tokens = int(per_row[chosen].sum())
    scored = tokens
    if "labels" in columns:
        scored = sum(int((columns["labels"][int(i)] != UNTRAINED).sum()) for i in chosen)
    elif len(lengths) > 1:
        scored = tokens - int(lengths[first][chosen].sum()) * (
            1 if shares and "chosen_ids" in columns else sequences
        )
    if shares:
        tokens -= (len(chosen) - 1) * _in_common([columns[first][int(i)] for i in _spread(len(table))])
    return Batch(tokens, scored)


def _spread(count: int) -> Sequence[int]:
    return range(0, count, max(1, count // _LOOKED_AT))


def _in_common(rows: Sequence[np.ndarray]) -> int:
    """Tokens that all of them begin with; none where they are too few to be computed once."""
    # The first and the last in alphabetical order differ most.
    shared = in_common(min(map(list, rows)), max(map(list, rows)))
    return shared if shared >= SHORTEST_SHARED else 0
