"""Questions put to a model, and what the formats of the rows say about its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data_formats.questions import Judgement, judgements
from .evaluation import answers
from .intervals import Measured

if TYPE_CHECKING:
    from ..data_formats import DataFormat, Question


@dataclass(frozen=True)
class Answered:
    """What was asked, what was said, and how it was judged: by one measurement for each format."""

    measured: Sequence[Measured]
    answers: Sequence[dict[str, Any]]  # {"prompt", "gold", "answer", "stopped"}

    def as_dict(self) -> dict[str, Any]:
        """For people to read."""
        found: dict[str, Any] = {}
        for one in self.measured:
            found |= {**one.numbers, **one.details}
        return {**found, "answers": list(self.answers)}


def ask(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    formats: Sequence[DataFormat] = (),
    *,
    within_budget: bool = True,
) -> Answered:
    """Ask as many of the questions as the budget allows, or all. formats: those that nobody registered."""
    asked, said = answers(model, tokenizer, questions, within_budget=within_budget)
    kept = [
        {
            "prompt": tokenizer.decode(question.prompt_ids),
            "gold": question.gold,
            "answer": answer.text,
            "stopped": answer.stopped,
        }
        for question, answer in zip(asked, said, strict=True)
    ]
    return Answered([_measured(one) for one in judgements(asked, said, formats)], kept)


def _measured(judgement: Judgement) -> Measured:
    count = len(judgement.golds)
    _, details = judgement.of(range(count))
    return Measured(count, lambda at: judgement.of(at)[0], details)
