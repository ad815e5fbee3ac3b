"""What of a stage's data is worth a look later, small enough for its record: lengths, and rows with what is trained."""

from __future__ import annotations

from typing import Any

from ..data_formats import TokenTable
from ..data_formats.inspection import histogram, preview

_ROWS, _TOKENS = 2, 300  # shown, of which none is longer
_LOOKED_AT = 200


def data_card(table: TokenTable, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """{"histogram": [[from, to, rows]] in tokens, "shown": [{"tokens", "trained", "parts": [[name, [[text, trained]]]]}]}.

    Lengths are those of the token table, so after cutting; of a pair: the prompt and the longer answer.
    """
    lengths = _lengths(table)
    small = [i for i in range(min(_LOOKED_AT, len(table))) if lengths[i] <= _TOKENS][:_ROWS]
    rows = [preview(table, i, tokenizer, "") for i in small]
    return {
        "histogram": [list(bin_) for bin_ in histogram(lengths, max_length)],
        "shown": [
            {
                "tokens": row.tokens,
                "trained": row.trained,
                "parts": [[name, [list(piece) for piece in pieces]] for name, pieces in row.parts],
            }
            for row in rows
        ],
    }


def _lengths(table: TokenTable) -> list[int]:
    import numpy as np

    if "input_ids" in table.columns:
        return table.lengths("input_ids").tolist()
    answers = [
        table.lengths(name)
        for name in ("chosen_ids", "rejected_ids", "completion_ids")
        if name in table.columns
    ]
    longer = np.maximum.reduce(answers) if answers else 0
    return (table.lengths("prompt_ids") + longer).tolist()
