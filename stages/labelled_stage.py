"""What Classifier and TokenClassifier share: a head with named classes on an encoder or a causal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..pipeline.model_folder import Head
from ..pipeline.settings import refuse
from .training_stage import TrainingStage


@dataclass(frozen=True)
class LabelledStage(TrainingStage):
    """Leaves the policy as it is; its model stands on the same weights with its own adapter and head."""

    heads: ClassVar[tuple[Head, ...]] = ("causal_lm", "masked_lm", "classifier", "token_classifier")
    full_learning_rate: ClassVar[float] = 3e-5
    default_epochs: ClassVar[float] = 3.0
    handovers: ClassVar[tuple[str, ...]] = ("merge",)

    def __post_init__(self) -> None:
        if self.data is None:
            refuse(type(self).__name__, "data", None, "a file; no rows with labels come with the package")
        super().__post_init__()
