"""Prompts without answers, for the stages in which the model answers itself."""

from __future__ import annotations

from . import fields
from .examples import Message, Prompt, Row
from .format import DataFormat
from .turns import check_prompt, read_turns


def _read(row: Row, place: str) -> Prompt:
    if isinstance(row["prompt"], (list, tuple)):
        return Prompt(place, _turns(row, "prompt"), _others(row, "prompt"))
    return Prompt(place, fields.text(row, "prompt"), _others(row, "prompt"))


def _read_messages(row: Row, place: str) -> Prompt:
    return Prompt(place, _turns(row, "messages"), _others(row, "messages"))


def _turns(row: Row, name: str) -> tuple[Message, ...]:
    messages = read_turns(row[name], name)
    check_prompt(messages, name)
    return messages


def _others(row: Row, name: str) -> Row:
    return {column: value for column, value in row.items() if column != name}


PROMPT_ONLY = DataFormat(
    name="prompt_only",
    kind="prompt",
    shape='{"prompt"} as text or message list',
    columns=("prompt",),
    recognise=lambda row: "prompt" in row,
    why="rows have 'prompt'",
    read=_read,
    keeps_columns=True,
)
PROMPT_MESSAGES = DataFormat(
    name="prompt_messages",
    kind="prompt",
    shape='{"messages"} that end with a user turn',
    columns=("messages",),
    recognise=lambda row: "messages" in row,
    why="rows have 'messages'",
    read=_read_messages,
    keeps_columns=True,
)
