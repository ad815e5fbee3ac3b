"""Held-out rows as questions: what the model is asked, and what its answers are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .dialogue import gold_of
from .examples import Completion, Conversation, Example
from .format import Gold

if TYPE_CHECKING:
    from .metrics import Answer
    from .raw import RawRows

MOST = 128  # questions
ANSWER_TOKENS = (
    1024  # that all answers of one measurement may have together; at least FEWEST questions are asked
)
FEWEST = 8


@dataclass(frozen=True)
class Question:
    format: str  # whose metric judges the answer
    prompt_ids: list[int]
    stop_id: int  # the token that ends the answer
    answer_tokens: int  # of the reference, with its stop token
    gold: Gold

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def questions_of(
    raw: RawRows,
    held: Iterable[int],
    examples: Mapping[int, Example],
    formats: Sequence[str],
    max_length: int,
) -> list[Question]:
    """held: the rows that are held out; examples: by number, those that may be asked; formats: of each example.

    The rows are asked as they were rendered: up to where the last answer begins.
    """
    last_row = {int(raw.examples[row]): row for row in held if int(raw.examples[row]) in examples}
    found = []
    for number, row in last_row.items():
        example, spans = examples[number], raw.table.columns["spans"][row]
        gold = _gold(example)
        if gold is None or not len(spans) or raw.lengths[row] > max_length:
            continue
        start, end = int(spans[-2]), int(spans[-1])
        ids = raw.table.columns["ids"][row]
        found.append(Question(formats[number], ids[:start].tolist(), int(ids[end - 1]), end - start, gold))
    return found


def _gold(example: Example) -> Gold | None:
    if isinstance(example, Completion):
        return {"calls": [], "answer": example.completion}
    if not isinstance(example, Conversation) or not example.messages[-1].trained:
        return None
    return gold_of(example.messages) if example.gold is None else example.gold


def affordable(questions: Sequence[Question]) -> tuple[list[Question], int]:
    """(the questions to ask, the most tokens of an answer): the shortest references first, within the budget."""
    asked: list[Question] = []
    for question in sorted(questions, key=lambda one: one.answer_tokens)[:MOST]:
        if len(asked) >= FEWEST and (len(asked) + 1) * room_for(question) > ANSWER_TOKENS:
            break
        asked.append(question)
    return asked, max(map(room_for, asked), default=0)


def room_for(question: Question) -> int:
    """Tokens that an answer may have: the reference's, and some more to stop in."""
    return min(question.answer_tokens + 8, ANSWER_TOKENS // FEWEST)


def score(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, float]:
    """The numbers of each format's metric; of a mixture they are named after the format: "qa.exact_match"."""
    from .registry import formats

    names = list(dict.fromkeys(question.format for question in questions))
    metrics = {known.name: known.metric for known in formats() if known.kind == "conversation"}
    numbers: dict[str, float] = {}
    for name in names:
        metric = metrics.get(name)
        if metric is None:
            continue
        pairs = [pair for pair in zip(questions, answers, strict=True) if pair[0].format == name]
        found = metric([question.gold for question, _ in pairs], [answer for _, answer in pairs])
        numbers |= {key if len(names) == 1 else f"{name}.{key}": float(value) for key, value in found.items()}
    return numbers
