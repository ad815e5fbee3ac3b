"""Direct preference optimisation: prefer the chosen answers, without leaving the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from ..pipeline.settings import check_number, refuse
from .evaluation import Row, answer_rows, log_probs
from .reward_model import pairs_measured
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured

LN_2 = math.log(2.0)


@dataclass(frozen=True)
class DPO(TrainingStage):
    """-log sigmoid(beta * (difference of log-ratios to the reference)) (Rafailov et al., arXiv 2305.18290).

    The reference is the policy as this stage receives it, proven before step 1.
    beta: how strongly the policy is held to the reference, usually 0.05 to 0.5.

    >>> DPO(LoRA(r=16), data="pairs.jsonl", beta=0.1)     # doctest: +SKIP
    """

    beta: float = field(default=0.1, kw_only=True)

    kind: ClassVar[Kind] = "preference"
    sequences_per_row: ClassVar[int] = 2
    trainer: ClassVar[TrainerKind] = "dpo"
    full_learning_rate: ClassVar[float] = 1e-6
    has_reference: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is None:
            refuse("DPO", "beta", None, "a number above 0")
        check_number("DPO", "beta", self.beta, above=0.0)

    def trainer_arguments(self) -> Mapping[str, Any]:
        return {"beta": self.beta}

    @property
    def first_loss(self) -> float | None:
        """ln 2 for the sigmoid loss of the paper, whose margin starts at 0."""
        given = self.trainer_args
        sigmoid = given.get("loss_type", "sigmoid") in ("sigmoid", ["sigmoid"])
        return (
            LN_2 if sigmoid and not given.get("label_smoothing") and not given.get("use_weighting") else None
        )

    def reference_rows(self, table: TokenTable) -> list[Row]:
        return pair_rows(table, range(min(4, len(table))))

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss (nats), accuracy and margin against the policy as it starts, which is the reference."""
        rows = pair_rows(held_out)
        reference = log_probs(model, rows, pad_id).sums

        def measure(model: Any) -> Measured:
            return self._margins(log_probs(model, rows, pad_id).sums, reference)

        return self._margins(reference, reference), measure

    def _margins(self, policy: Sequence[float], reference: Sequence[float]) -> Measured:
        ratios = [self.beta * (p - r) for p, r in zip(policy, reference, strict=True)]
        half = len(ratios) // 2
        return pairs_measured(
            [chosen - rejected for chosen, rejected in zip(ratios[:half], ratios[half:], strict=True)]
        )


def pair_rows(table: TokenTable, places: Sequence[int] | None = None) -> list[Row]:
    """Rows for `log_probs`: first all chosen answers, then all rejected ones, with the prompts untrained."""
    return answer_rows(table, "chosen_ids", places) + answer_rows(table, "rejected_ids", places)
