"""Supervised fine-tuning of models with an encoder and a decoder, such as T5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import StrategyError

from ..data_formats import Kind
from ..pipeline.model_folder import Head
from ..pipeline.settings import refuse
from .cpt import token_loss
from .evaluation import answer_log_probs
from .strategies import Task
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .intervals import Measured


@dataclass(frozen=True)
class Seq2Seq(TrainingStage):
    """The encoder reads the prompt, the decoder learns the answer and its end token.

    Takes the dialogue formats of SFT, rows with exactly one answer. Such models have no chat template: the prompt is
    the texts of the turns before the answer, with a blank line between them. max_length counts prompt and answer
    together. Usual learning rates: 1e-4 to 3e-4 for T5 with Full, up to 1e-3 with LoRA.

    >>> Seq2Seq(LoRA(r=16), data="translations.jsonl")     # doctest: +SKIP
    """

    heads: ClassVar[tuple[Head, ...]] = ("seq2seq_lm",)
    kind: ClassVar[Kind] = "exchange"
    trainer: ClassVar[TrainerKind] = "seq2seq"
    task: ClassVar[Task] = "seq2seq"
    full_learning_rate: ClassVar[float] = 1e-4
    shardable: ClassVar[bool] = True
    default_epochs: ClassVar[float] = 2.0
    answers_questions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.data is None:
            refuse("Seq2Seq", "data", None, "a file; no rows for such models come with the package")
        super().__post_init__()
        if self.strategy.by_depth:
            raise StrategyError(
                f"Seq2Seq: {type(self.strategy).__name__} as it is set counts the layers of one stack, and these models have "
                "two; take Full() or LoRA() without such a setting."
            )

    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """loss: nats per token of the answers."""
        rows = [(row["prompt_ids"], row["completion_ids"]) for row in map(held_out.row, range(len(held_out)))]

        def measure(model: Any) -> Measured:
            return token_loss(answer_log_probs(model, rows, pad_id))

        return measure(model), measure
