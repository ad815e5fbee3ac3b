"""Odds-ratio preference optimisation: fine-tuning and preference in one loss, without a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from ..pipeline.settings import check_number, refuse
from .dpo import pair_rows
from .evaluation import log_probs
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class ORPO(TrainingStage):
    """Learn the chosen answer, and make its odds higher than the rejected one's (Hong et al., arXiv 2403.07691, eq. 6).

    May stand where SFT and DPO would stand after each other. beta: weight of the odds ratio, lambda in the paper.

    >>> ORPO(LoRA(r=16), data="pairs.jsonl")     # doctest: +SKIP
    """

    beta: float = field(default=0.1, kw_only=True)

    kind: ClassVar[Kind] = "preference"
    sequences_per_row: ClassVar[int] = 2
    trainer: ClassVar[TrainerKind] = "orpo"
    full_learning_rate: ClassVar[float] = 8e-6
    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is None:
            refuse("ORPO", "beta", None, "a number above 0")
        check_number("ORPO", "beta", self.beta, above=0.0)

    def trainer_arguments(self) -> Mapping[str, Any]:
        return {"beta": self.beta}

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss; nll (nats per token of the chosen answers); accuracy and margin of the log odds."""
        import numpy as np

        from .intervals import Measured

        rows, half = pair_rows(held_out), len(held_out)

        def measure(model: Any) -> Measured:
            found = log_probs(model, rows, pad_id)
            sums, counts = np.array(found.sums), np.array(found.counts)
            means = (sums / counts).tolist()
            ratios = np.array(
                [log_odds_ratio(*pair) for pair in zip(means[:half], means[half:], strict=True)]
            )

            def of(at: np.ndarray) -> dict[str, float]:
                nll = float(-sums[at].sum() / counts[at].sum())  # the chosen answers come first
                return {
                    "loss": nll + self.beta * float(np.logaddexp(0, -ratios[at]).mean()),
                    "nll": nll,
                    "accuracy": float((ratios[at] > 0).mean()),
                    "margin": float(ratios[at].mean()),
                }

            return Measured(half, of)

        return measure(model), measure


def log_odds_ratio(chosen: float, rejected: float) -> float:
    """log(odds(chosen) / odds(rejected)), odds = p / (1 - p), of mean log-probabilities per token in nats."""
    return (chosen - rejected) - (math.log(-math.expm1(chosen)) - math.log(-math.expm1(rejected)))
