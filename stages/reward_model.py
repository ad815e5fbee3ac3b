"""Reward modelling: learn which of two answers people prefer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from .evaluation import scores
from .strategies import Task
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class RewardModel(TrainingStage):
    """One score per conversation, trained so that the chosen answer scores higher (Bradley-Terry).

    The policy stays as it is; the reward model stands on the same weights with its own adapter and head.

    >>> RewardModel(LoRA(r=16), data="pairs.jsonl")     # doctest: +SKIP
    """

    makes: ClassVar[str] = "reward"
    kind: ClassVar[Kind] = "preference"
    sequences_per_row: ClassVar[int] = 2
    trainer: ClassVar[TrainerKind] = "reward"
    task: ClassVar[Task] = "reward"
    full_learning_rate: ClassVar[float] = 1e-5
    shardable: ClassVar[bool] = True
    handovers: ClassVar[tuple[str, ...]] = ("merge",)

    def trainer_table(self, table: TokenTable) -> TokenTable:
        """Prompt and answer joined: the trainer scores whole conversations."""
        return table.joined()

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss (nats), accuracy (share of pairs ranked rightly), margin (mean score difference)."""

        def measure(model: Any) -> Measured:
            return scored_pairs(model, held_out, pad_id)

        return measure(model), measure


def scored_pairs(model: Any, table: TokenTable, pad_id: int) -> Measured:
    """How a reward model ranks pairs."""
    joined = table.joined()
    rows = [joined.row(i) for i in range(len(joined))]
    values = scores(model, [row[side] for side in ("chosen_ids", "rejected_ids") for row in rows], pad_id)
    return pairs_measured([c - r for c, r in zip(values, values[len(rows) :], strict=False)])


def pairs_measured(differences: Sequence[float]) -> Measured:
    """loss -log sigmoid(d) in nats, accuracy (a tie counts half) and mean of the differences chosen - rejected."""
    from .intervals import Measured

    return Measured.means(
        loss=[math.log1p(math.exp(-abs(d))) + max(-d, 0.0) for d in differences],
        accuracy=[(d > 0) + 0.5 * (d == 0) for d in differences],
        margin=differences,
    )
