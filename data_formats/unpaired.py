"""Single answers, each with a verdict: a dialogue of any known form and one column that says good or bad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import fields
from .alpaca import ALPACA, ALPACA_RANKING
from .examples import Completion, Conversation, Judged, Message, Row
from .format import BadRow, DataFormat
from .openai_messages import OPENAI_MESSAGES, SWIFT_RANKING
from .prompts import EXPLICIT_PROMPT, IMPLICIT_PROMPT, PROMPT_COMPLETION
from .sharegpt import SHAREGPT, SHAREGPT_RANKING
from .turns import check_prompt

VERDICTS = ("label", "kto_tag")  # TRL's and ms-swift's name, LLaMA-Factory's name
_WORDS = {"true": True, "false": False, "1": True, "0": False}


def _verdict(row: Row) -> bool:
    given = [name for name in VERDICTS if name in row]
    if not given:
        raise BadRow("label", "missing field", f"is missing; the fields are {', '.join(map(str, row))}")
    if len(given) > 1:
        raise BadRow(given[1], "unread column", f"is there beside '{given[0]}'; keep one of them")
    return _read_verdict(row[given[0]], given[0])


def _read_verdict(value: Any, field: str) -> bool:
    """Files say true, "true", 1 or 1.0; what else they say is not guessed at."""
    word = str(int(value)) if isinstance(value, (int, float)) and value in (0, 1) else str(value).lower()
    if word not in _WORDS:
        found = repr(value) if isinstance(value, str) else fields.type_name(value)
        raise BadRow(
            field, "wrong type", f"is {found} and must be true for a good answer or false for a bad one"
        )
    return _WORDS[word]


def _judge(example: Any, desirable: bool, format_: DataFormat) -> Judged:
    """The last answer of a dialogue, with everything before it as the prompt."""
    if isinstance(example, Completion):
        return Judged(example.place, example.prompt, example.completion, desirable)
    assert isinstance(example, Conversation)
    *prompt, answer = example.messages
    field = format_.columns[0]
    if answer.role != "assistant":
        raise BadRow(field, "order of turns", "must end with the judged answer, an assistant turn")
    check_prompt(prompt, field)
    turns = tuple(Message(turn.role, turn.content) for turn in prompt)
    return Judged(example.place, turns, answer.content, desirable)


def _judged(format_: DataFormat) -> DataFormat:
    """The same rows with a verdict beside them."""
    return replace(
        format_,
        name=f"{format_.name}_label",
        kind="unpaired",
        shape=f"{format_.shape} with 'label' or 'kto_tag'",
        columns=(*format_.columns, *VERDICTS),
        recognise=lambda row: format_.recognise(row) and any(name in row for name in VERDICTS),
        why=f"{format_.why}, and a verdict",
        read=lambda row, place: _judge(format_.read(row, place), _verdict(row), format_),
    )


def _split(format_: DataFormat) -> DataFormat:
    """Pairs, each of which is a good answer and a bad one."""
    return replace(format_, kind="unpaired", why=f"{format_.why}; a pair is a good answer and a bad one")


UNPAIRED = (
    *map(_judged, (OPENAI_MESSAGES, SHAREGPT, ALPACA, PROMPT_COMPLETION)),
    *map(_split, (EXPLICIT_PROMPT, IMPLICIT_PROMPT, ALPACA_RANKING, SHAREGPT_RANKING, SWIFT_RANKING)),
)
