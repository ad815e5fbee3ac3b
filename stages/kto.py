"""Kahneman-Tversky optimisation: single answers, each good or bad, instead of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from ..pipeline.settings import check_number, refuse
from .evaluation import Row, answer_rows, log_probs
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class KTO(TrainingStage):
    """Good answers should gain on the reference, bad ones lose (Ethayarajh et al., arXiv 2402.01306, eq. 8).

    Takes rows with a verdict (`label` or `kto_tag`), or pairs, each of which is a good answer and a bad one.
    beta: how strongly the policy is held to the reference, usually 0.05 to 0.5.
    desirable_weight, undesirable_weight: of the losses of good and of bad answers; where one kind is rare, the paper
    has its weight times its number within 1 to 4/3 of the other's.

    >>> KTO(LoRA(r=16), data="judged.jsonl", beta=0.1)     # doctest: +SKIP
    """

    beta: float = field(default=0.1, kw_only=True)
    desirable_weight: float = field(default=1.0, kw_only=True)
    undesirable_weight: float = field(default=1.0, kw_only=True)

    kind: ClassVar[Kind] = "unpaired"
    sequences_per_row: ClassVar[int] = 2  # the answer, and the other one that the KL is estimated on
    trainer: ClassVar[TrainerKind] = "kto"
    full_learning_rate: ClassVar[float] = 1e-6
    has_reference: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            if getattr(self, name) is None:
                refuse("KTO", name, None, "a number above 0")
            check_number("KTO", name, getattr(self, name), above=0.0)
        check_number("KTO", "batch_size", self.batch_size, least=2, whole=True)  # the KL needs another answer

    def trainer_arguments(self) -> Mapping[str, Any]:
        return {
            "beta": self.beta,
            "desirable_weight": self.desirable_weight,
            "undesirable_weight": self.undesirable_weight,
        }

    def trainer_table(self, table: TokenTable) -> TokenTable:
        """Rows in an order drawn once, with the answer of a neighbour in the batch: TRL goes through them as they are."""
        return mismatched(table.shuffled(seed=0), self.batch_size)

    @property
    def first_loss(self) -> float | None:
        """1 - sigmoid(0) for every answer, whose log-ratio to the reference starts at 0 as the KL does."""
        plain = self.trainer_args.get("loss_type", "kto") in ("kto", "apo_zero_unpaired")
        return 0.5 if plain and self.desirable_weight == self.undesirable_weight == 1.0 else None

    def reference_rows(self, table: TokenTable) -> list[Row]:
        return answer_rows(table, "completion_ids", range(min(8, len(table))))

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss, and beta times the mean log-ratio of the good and of the bad answers (nats) and their difference."""
        from .intervals import Measured

        table = mismatched(held_out, max(2, len(held_out)))
        rows = answer_rows(table, "completion_ids") + answer_rows(table, "KL_completion_ids")
        reference = log_probs(model, rows, pad_id).sums
        labels = [bool(label) for label in held_out.numbers["label"]]

        def measured(policy: Sequence[float]) -> Measured:
            ratios = [p - r for p, r in zip(policy, reference, strict=True)]
            own, others = ratios[: len(labels)], ratios[len(labels) :]
            return Measured(
                len(labels),
                lambda at: self._metrics(*([each[i] for i in at] for each in (own, others, labels))),
            )

        return measured(reference), lambda model: measured(log_probs(model, rows, pad_id).sums)

    def _metrics(
        self, ratios: Sequence[float], others: Sequence[float], labels: Sequence[bool]
    ) -> dict[str, float]:
        kl = max(0.0, sum(others) / len(others))
        losses = kto_losses(ratios, labels, kl, self.beta, (self.desirable_weight, self.undesirable_weight))
        of = {
            name: [self.beta * ratio for ratio, label in zip(ratios, labels, strict=True) if label is wanted]
            for name, wanted in (("reward_desirable", True), ("reward_undesirable", False))
        }
        means = {name: sum(values) / len(values) for name, values in of.items() if values}
        margin = (
            {"margin": means["reward_desirable"] - means["reward_undesirable"]} if len(means) == 2 else {}
        )
        return {"loss": sum(losses) / len(losses), "kl": kl, **means, **margin}


def kto_losses(
    ratios: Sequence[float], labels: Sequence[bool], kl: float, beta: float, weights: tuple[float, float]
) -> list[float]:
    """weight * (1 - sigmoid(+-beta (log-ratio - kl))), + for good answers; log-ratios and kl in nats."""
    return [
        weights[0] * (1 - _sigmoid(beta * (ratio - kl)))
        if label
        else weights[1] * (1 - _sigmoid(beta * (kl - ratio)))
        for ratio, label in zip(ratios, labels, strict=True)
    ]


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def mismatched(table: TokenTable, batch_size: int) -> TokenTable:
    """With a column KL_completion_ids: of each row, the answer of the row before it in its batch, for the KL.

    A last batch of one row takes its from the batch before.
    """
    from ..data_formats import Ragged

    answers, count = table.columns["completion_ids"], len(table)
    others = []
    for row in range(count):
        first = row - row % batch_size
        last = min(first + batch_size, count) - 1
        others.append(row - 1 if row > first or first == last > 0 else last)
    columns = {**table.columns, "KL_completion_ids": Ragged.of(answers[row] for row in others)}
    return replace(table, columns=columns)
