"""Questions and answers, with a context or without, with one reference answer or several; SQuAD's layout too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import fields
from ..dialogues.tools import parse_json
from ..examples import Conversation, Message, Row
from ..format import BadRow, DataFormat, Gold
from ..scoring import metrics

ANSWERS = ("answer", "answers")


def question_of(row: Row) -> str:
    """The user's turn: the context first, where there is one."""
    parts = [fields.optional_text(row, "context"), fields.text(row, "question")]
    return "\n\n".join(part for part in parts if part)


def asked_of(row: Row) -> tuple[Message, ...]:
    """The turns before the answer."""
    turns = [Message("system", system)] if (system := fields.optional_text(row, "system")) else []
    return (*turns, Message("user", question_of(row)))


def references_of(row: Row) -> list[str]:
    name = fields.one_of(row, ANSWERS)
    value = row[name]
    if name == "answers" and isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # a cell of a .csv
        value = parse_json(value, name)
    if isinstance(value, Mapping):  # SQuAD: {"text": [...], "answer_start": [...]}
        value, name = fields.given(value, "text", inside=name), f"{name}.text"
    if isinstance(value, (list, tuple)):
        texts = [one.get("text") if isinstance(one, Mapping) else one for one in value]
        if not texts:
            raise BadRow(
                name, "no answer", "is empty: the question has no answer to learn; leave the row out"
            )
        return list(dict.fromkeys(fields.check_text(one, f"{name}[{i}]") for i, one in enumerate(texts)))
    return [fields.check_text(value, name)]


def _read(row: Row, place: str) -> Conversation:
    references = references_of(row)
    messages = (*asked_of(row), Message("assistant", references[0]))
    return Conversation(place, messages, gold={"answers": references})


def _articles(row: Row, place: str) -> Iterator[tuple[Row, str]]:
    """The questions of one SQuAD article, each with its paragraph."""
    for i, paragraph in enumerate(fields.check_list(fields.given(row, "paragraphs"), "paragraphs")):
        held = fields.check_object(paragraph, f"paragraphs[{i}]")
        for j, item in enumerate(fields.check_list(held.get("qas"), f"paragraphs[{i}].qas")):
            question = dict(fields.check_object(item, f"paragraphs[{i}].qas[{j}]"))
            if question.get("is_impossible"):
                question["answers"] = []
            yield {**question, "context": held.get("context")}, f"{place}.paragraphs[{i}].qas[{j}]"


def final_answer(text: str) -> str:
    """GSM8K writes the way to the answer before it: "... #### 42"."""
    return text.rpartition("####")[2].strip()


def qa_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, float]:
    """Exact match and token F1 over the best reference (Rajpurkar et al. 2016)."""
    pairs: list[tuple[str, list[Any]]] = [
        (final_answer(answer.text), [final_answer(text) for text in gold["answers"]])
        for gold, answer in zip(golds, answers, strict=True)
    ]
    return {
        "exact_match": sum(metrics.exact_match(*pair) for pair in pairs) / len(pairs),
        "token_f1": sum(metrics.token_f1(*pair) for pair in pairs) / len(pairs),
        "stop_rate": metrics.stop_rate(answers),
    }


QA = DataFormat(
    name="qa",
    kind="conversation",
    shape='{"question", "answer" or "answers", "context"}',
    columns=("question", "answer", "answers", "context", "system"),
    detect=lambda row: "question" in row and any(name in row for name in ANSWERS),
    why="rows have 'question' and an answer",
    to_example=_read,
    metric=qa_metric,
)
SQUAD = replace(
    QA,
    name="squad",
    family="qa",
    shape='{"paragraphs": [{"context", "qas"}]}',
    columns=("paragraphs", "answer_start", "is_impossible", "plausible_answers", *QA.columns),
    detect=lambda row: "paragraphs" in row,
    why="rows have 'paragraphs' with questions, SQuAD's layout",
    expand=_articles,
)
