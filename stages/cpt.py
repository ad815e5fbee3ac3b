"""Continued pretraining: learn from plain text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from .evaluation import log_probs
from .training_stage import Metrics, Overlong, TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable


@dataclass(frozen=True)
class CPT(TrainingStage):
    """Next-token training on documents; a document longer than `max_length` is split, never joined with another.

    >>> CPT(LoRA(r=16), data="notes.txt")     # doctest: +SKIP
    """

    kind: ClassVar[Kind] = "text"
    trainer: ClassVar[TrainerKind] = "sft"
    full_learning_rate: ClassVar[float] = 2e-5
    default_overlong: ClassVar[Overlong] = "split"

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Metrics, Callable[[Any], Metrics]]:
        """loss (nats per token) and perplexity."""

        def measure(model: Any) -> Metrics:
            loss = language_loss(model, held_out, pad_id)
            return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

        return measure(model), measure


def language_loss(model: Any, table: TokenTable, pad_id: int) -> float:
    """Mean negative log-likelihood in nats per trained token of a text or conversation table."""
    rows = [(row["input_ids"], row["labels"]) for row in map(table.row, range(len(table)))]
    return log_probs(model, rows, pad_id).mean_loss
