"""Single answers, each with a verdict: a dialogue of any known form and one column that says good or bad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import fields
from ..examples import Completion, Conversation, Judged, Row
from ..format import BadRow, DataFormat
from .alpaca import ALPACA, ALPACA_RANKING
from .openai_messages import OPENAI_MESSAGES, SWIFT_RANKING
from .prompts import EXPLICIT_PROMPT, IMPLICIT_PROMPT, PROMPT_COMPLETION
from .sharegpt import SHAREGPT, SHAREGPT_RANKING

VERDICTS = ("label", "kto_tag")  # TRL's and ms-swift's name, LLaMA-Factory's name
_WORDS = {"true": True, "false": False, "1": True, "0": False}


def _verdict(row: Row) -> bool:
    name = fields.one_of(row, VERDICTS)
    return _read_verdict(row[name], name)


def _read_verdict(value: Any, field: str) -> bool:
    """Files say true, "true", 1 or 1.0; what else they say is not guessed at."""
    word = str(int(value)) if isinstance(value, (int, float)) and value in (0, 1) else value
    word = word.strip().lower() if isinstance(word, str) else ""
    if word not in _WORDS:
        reason = f"is {fields.quoted(value)} and must be true for a good answer or false for a bad one"
        raise BadRow(field, "wrong type", reason)
    return _WORDS[word]


def _judge(example: Any, desirable: bool, format_: DataFormat) -> Judged:
    """The last answer of a dialogue, with everything before it as the prompt."""
    if isinstance(example, Completion):
        return Judged(example.place, example.prompt, example.completion, desirable)
    assert isinstance(example, Conversation)
    *prompt, answer = example.messages
    field = format_.columns[0]
    if answer.calls or example.tools:
        raise BadRow(field, "order of turns", "calls tools; judged answers and their prompts must be text")
    if answer.reasoning:
        reason = "ends with reasoning, which is not read here; write it into the answer, in <think> tags, or remove it"
        raise BadRow(field, "unread column", reason)
    turns = tuple(replace(turn, trained=True) for turn in prompt)
    return Judged(example.place, turns, answer.content, desirable)


def _judged(format_: DataFormat) -> DataFormat:
    """The same rows with a verdict beside them."""
    return replace(
        format_,
        name=f"{format_.name}_label",
        family="unpaired",
        kind="unpaired",
        metric=None,
        shape=f"{format_.shape} with 'label' or 'kto_tag'",
        columns=(*format_.columns, *VERDICTS),
        detect=lambda row: format_.detect(row) and any(name in row for name in VERDICTS),
        why=f"{format_.why}, and a verdict",
        to_example=lambda row, place: _judge(format_.to_example(row, place), _verdict(row), format_),
    )


def _split(format_: DataFormat) -> DataFormat:
    """Pairs, each of which is a good answer and a bad one."""
    return replace(
        format_,
        kind="unpaired",
        family="unpaired",
        why=f"{format_.why}; a pair is a good answer and a bad one",
    )


UNPAIRED = (
    *map(_judged, (OPENAI_MESSAGES, SHAREGPT, ALPACA, PROMPT_COMPLETION)),
    *map(_split, (EXPLICIT_PROMPT, IMPLICIT_PROMPT, ALPACA_RANKING, SHAREGPT_RANKING, SWIFT_RANKING)),
)
