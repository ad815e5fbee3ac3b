"""Continued pretraining: learn from plain text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from .evaluation import LogProbs, log_probs
from .language_stage import LanguageStage
from .training_stage import Overlong

if TYPE_CHECKING:
    import numpy as np

    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class CPT(LanguageStage):
    """Next-token training on documents; a document longer than `max_length` is split, never joined with another.

    >>> CPT(LoRA(r=16), data="notes.txt")     # doctest: +SKIP
    """

    kind: ClassVar[Kind] = "text"
    default_overlong: ClassVar[Overlong] = "split"

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss (nats per token) and perplexity."""

        def measure(model: Any) -> Measured:
            return language_loss(model, held_out, pad_id, perplexity=True)

        return measure(model), measure


def language_loss(model: Any, table: TokenTable, pad_id: int, *, perplexity: bool = False) -> Measured:
    """loss: mean negative log-likelihood in nats per trained token of a text or conversation table."""
    rows = [(row["input_ids"], row["labels"]) for row in map(table.row, range(len(table)))]
    return token_loss(log_probs(model, rows, pad_id), perplexity=perplexity)


def token_loss(found: LogProbs, *, perplexity: bool = False) -> Measured:
    """loss, and perplexity if asked for, over the trained tokens of all rows together."""
    import numpy as np

    from .intervals import Measured

    sums, counts = np.array(found.sums), np.array(found.counts)

    def of(at: np.ndarray) -> dict[str, float]:
        loss = float(-sums[at].sum() / max(1, counts[at].sum()))
        return {"loss": loss, **({"perplexity": math.exp(min(loss, 700.0))} if perplexity else {})}

    return Measured(len(sums), of)
