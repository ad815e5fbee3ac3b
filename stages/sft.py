"""Supervised fine-tuning: learn the assistant's turns of conversations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from .cpt import language_loss
from .training_stage import Metrics, TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable


@dataclass(frozen=True)
class SFT(TrainingStage):
    """Trains the assistant's turns and their stop tokens, nothing else.

    >>> SFT(LoRA(r=16), data="chat.jsonl", epochs=3)     # doctest: +SKIP
    """

    kind: ClassVar[Kind] = "conversation"
    trainer: ClassVar[TrainerKind] = "sft"
    full_learning_rate: ClassVar[float] = 2e-5
    default_epochs: ClassVar[float] = 2.0
    answers_questions: ClassVar[bool] = True

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Metrics, Callable[[Any], Metrics]]:
        """loss: nats per token of the assistant's turns."""

        def measure(model: Any) -> Metrics:
            return {"loss": language_loss(model, held_out, pad_id)}

        return measure(model), measure
