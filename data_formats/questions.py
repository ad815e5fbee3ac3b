"""Held-out rows as questions: what the model is asked, and what its answers are judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .dialogues.dialogue import gold_of
from .examples import Completion, Conversation, Example
from .format import DataFormat, Gold, Metric

if TYPE_CHECKING:
    from .scoring.metrics import Answer
    from .tokens.raw import RawRows

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
    format_of: Callable[[int], str],
    max_length: int,
) -> list[Question]:
    """held: the rows that are held out; examples: by number, those that may be asked; format_of: an example's.

    A dialogue is asked at its last call of a tool, or else at its end, as it was rendered: up to where that answer
    begins.
    """
    answers: dict[int, list[tuple[int, int, int]]] = {}  # of each example, in order: (row, start, end)
    for row in held:
        if (number := int(raw.examples[row])) in examples:
            flat = raw.table.columns["spans"][row].tolist()
            answers.setdefault(number, []).extend(
                (row, start, end) for start, end in zip(flat[0::2], flat[1::2], strict=True)
            )
    found = []
    for number, spans in answers.items():
        asked = _asked(examples[number])
        if asked is None or asked[0] >= len(spans):
            continue
        row, start, end = spans[asked[0]]
        ids = raw.table.columns["ids"][row]
        if end <= max_length:
            prompt, stop = ids[:start].tolist(), int(ids[end - 1])
            found.append(Question(format_of(number), prompt, stop, end - start, asked[1]))
    return found


def questions_of_exchanges(
    raw: RawRows,
    held: Iterable[int],
    examples: Mapping[int, Example],
    format_of: Callable[[int], str],
    max_length: int,
) -> list[Question]:
    """The same of exchanges, whose prompt and answer are columns of their own."""
    found = []
    for row in held:
        if (number := int(raw.examples[row])) not in examples:
            continue
        prompt, answer = (raw.table.columns[name][row].tolist() for name in ("prompt_ids", "completion_ids"))
        asked = _asked(examples[number])
        if asked is not None and len(prompt) + len(answer) <= max_length:
            found.append(Question(format_of(number), prompt, answer[-1], len(answer), asked[1]))
    return found


def _asked(example: Example) -> tuple[int, Gold] | None:
    """(which of the trained answers, what the answer is judged by)."""
    if isinstance(example, Completion):
        return 0, {"calls": [], "answer": example.completion}
    assert isinstance(example, Conversation)
    trained = [i for i, turn in enumerate(example.messages) if turn.role == "assistant" and turn.trained]
    if example.gold is not None:
        return len(trained) - 1, example.gold
    calling = [k for k, i in enumerate(trained) if example.messages[i].calls]
    last = calling[-1] if calling else len(trained) - 1
    return last, gold_of(example.messages[: trained[last] + 1])


def affordable(questions: Sequence[Question]) -> list[Question]:
    """The questions to ask within the budget: those with the shortest references first."""
    asked: list[Question] = []
    for question in sorted(questions, key=lambda one: one.answer_tokens)[:MOST]:
        if len(asked) >= FEWEST and (len(asked) + 1) * room_for(question) > ANSWER_TOKENS:
            break
        asked.append(question)
    return asked


def room_for(question: Question) -> int:
    """Tokens that an answer may have: the reference's, and some more to stop in."""
    return min(question.answer_tokens + 8, ANSWER_TOKENS // FEWEST)


@dataclass(frozen=True)
class Judgement:
    """The answers that one format judges; of a mixture its numbers are named "qa.exact_match"."""

    prefix: str
    metric: Metric
    golds: Sequence[Gold]
    answers: Sequence[Answer]

    def of(self, at: Iterable[int]) -> tuple[dict[str, float], dict[str, Any]]:
        """(numbers, what else the metric says) of the answers at these places, some twice, some not at all."""
        places = list(at)
        said = self.metric([self.golds[i] for i in places], [self.answers[i] for i in places])
        found = {f"{self.prefix}{key}": value for key, value in said.items()}
        numbers = {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}
        return numbers, {key: value for key, value in found.items() if key not in numbers}


def judgements(
    questions: Sequence[Question], answers: Sequence[Answer], own: Iterable[DataFormat] = ()
) -> list[Judgement]:
    """What each format judges of the answers. own: formats that are not registered."""
    from .formats.registry import formats

    names = list(dict.fromkeys(question.format for question in questions))
    known = [one for one in (*formats(), *own) if one.kind == "conversation"]
    metrics = {one.name: one.metric for one in known if one.metric is not None}
    found = []
    for name in names:
        if name in metrics:
            pairs = [pair for pair in zip(questions, answers, strict=True) if pair[0].format == name]
            golds, said = [question.gold for question, _ in pairs], [answer for _, answer in pairs]
            found.append(Judgement(f"{name}." if len(names) > 1 else "", metrics[name], golds, said))
    return found
