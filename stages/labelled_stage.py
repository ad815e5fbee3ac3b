"""What Classifier and TokenClassifier share: a head with named classes on an encoder or a causal model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.heads import Labels
from ..pipeline.model_folder import Head
from ..pipeline.settings import refuse
from .evaluation import head_logits
from .training_stage import TrainingStage

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class LabelledStage(TrainingStage):
    """Leaves the policy as it is; its model stands on the same weights with its own adapter and head."""

    heads: ClassVar[tuple[Head, ...]] = ("causal_lm", "masked_lm", "classifier", "token_classifier")
    full_learning_rate: ClassVar[float] = 3e-5
    shardable: ClassVar[bool] = True
    default_epochs: ClassVar[float] = 3.0
    handovers: ClassVar[tuple[str, ...]] = ("merge",)
    gold: ClassVar[str]  # the column of the table that the head learns to say

    def __post_init__(self) -> None:
        if self.data is None:
            refuse(type(self).__name__, "data", None, "a file; no rows with labels come with the package")
        super().__post_init__()

    @abstractmethod
    def head_metrics(self, logits: Sequence[Any], gold: Sequence[Sequence[int]], labels: Labels) -> Measured:
        """What the head's scores of rows are worth against their gold: numbers, and a table by label."""

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """The numbers of `head_metrics`."""
        rows = [held_out.row(i) for i in range(len(held_out))]

        def measure(model: Any) -> Measured:
            logits = head_logits(model, [row["input_ids"] for row in rows], pad_id)
            return self.head_metrics(logits, [row[self.gold] for row in rows], Labels.of(model.config))

        return measure(model), measure
