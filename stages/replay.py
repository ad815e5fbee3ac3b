"""Rows of earlier stages mixed into a stage's own, so that less of what they taught is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline.cache import cache_folder, keep_folder

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .token_tables import Tables

_SEED = 0


def with_replay(own: Tables, earlier: Sequence[Tables], share: float, key: str) -> Tables:
    """`own`, with rows of the earlier stages added until they are `share` of the rows trained on.

    No row is taken twice: where the earlier stages have too few, all of them are. Held-out rows of either stay out.
    """
    from ..data_formats import TokenTable

    rows = _drawn([len(tables.train) for tables in earlier], round(share / (1 - share) * len(own.train)))
    folder = cache_folder() / "tables" / f"{key[:32]}-replay"
    keep_folder(folder, lambda aside: _write(own.train, [one.train for one in earlier], rows, aside))
    train = TokenTable.load(folder)
    taken = len(train) - len(own.train)
    sources = ", ".join(dict.fromkeys(one.report.source for one in earlier))
    note = (
        f"replay: {taken} rows of earlier stages ({sources}), {taken / len(train):.1%} of the rows trained on"
    )
    report = replace(
        own.report,
        tokens=train.tokens,
        trained_tokens=train.trained_tokens,
        length_max=max(own.report.length_max, int(train.lengths("input_ids").max())),
        notes=(*own.report.notes, note),
    )
    return replace(own, train=train, report=report, replayed=taken, key=key)


def _drawn(sizes: Sequence[int], wanted: int) -> list[Any]:
    """The places of the rows to take from each of several tables, as if all their rows were one table's."""
    import numpy as np

    total = sum(sizes)
    drawn = np.sort(np.random.default_rng(_SEED).permutation(total)[:wanted])
    starts = np.cumsum([0, *sizes])
    return [drawn[(drawn >= a) & (drawn < b)] - a for a, b in pairwise(starts)]


def _write(own: TokenTable, earlier: Sequence[TokenTable], rows: Sequence[Any], folder: Path) -> None:
    from ..data_formats import Ragged, Spill

    spill = Spill(folder, {name: str(column.values.dtype) for name, column in own.columns.items()}, {})
    spill.add_rows({name: (column.values, column.lengths) for name, column in own.columns.items()}, {})
    for table, chosen in zip(earlier, rows, strict=True):
        picked = {name: Ragged.of(table.columns[name][i] for i in chosen) for name in own.columns}
        spill.add_rows({name: (column.values, column.lengths) for name, column in picked.items()}, {})
    spill.finish()
