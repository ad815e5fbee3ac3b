"""Supervised fine-tuning: learn the assistant's turns of conversations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from .cpt import language_loss
from .language_stage import LanguageStage

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class SFT(LanguageStage):
    """Trains the assistant's turns and their stop tokens, nothing else.

    >>> SFT(LoRA(r=16), data="chat.jsonl", epochs=3)     # doctest: +SKIP
    """

    kind: ClassVar[Kind] = "conversation"
    default_epochs: ClassVar[float] = 2.0
    answers_questions: ClassVar[bool] = True

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss: nats per token of the assistant's turns."""

        def measure(model: Any) -> Measured:
            return language_loss(model, held_out, pad_id)

        return measure(model), measure
