"""Prompts for the stages in which the model answers itself: any row that asks something, without its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import fields
from ..dialogues.dialogue import read_dialogue
from ..dialogues.tools import check_json, read_tools
from ..dialogues.turns import check_prompt, read_turns
from ..examples import Message, Prompt, Row, Tool
from ..format import BadRow, DataFormat
from . import alpaca
from .qa import question_of

Asked = tuple[tuple[Message, ...] | str, tuple[Tool, ...]]


def _prompt(row: Row) -> Asked:
    if not isinstance(fields.given(row, "prompt"), (list, tuple)):
        if not fields.is_empty(row.get("tools")):
            raise BadRow("tools", "unread column", "needs messages in 'prompt', not text")
        return fields.text(row, "prompt"), ()
    tools = read_tools(row.get("tools"), "tools")
    return check_prompt(read_turns(row["prompt"], "prompt"), "prompt", tools), tools


def _dialogue(column: str) -> Callable[[Row], Asked]:
    def asked(row: Row) -> Asked:
        turns, tools = read_dialogue(row, column)
        waiting = turns[:-1] if turns[-1].message.role == "assistant" else turns
        return check_prompt(waiting, column, tools), tools

    return asked


def _prompts(name: str, shape: str, columns: Sequence[str], ask: Callable[[Row], Asked]) -> DataFormat:
    def read(row: Row, place: str) -> Prompt:
        prompt, tools = ask(row)
        kept = {key: row[key] for key in row if key not in columns}
        for key, value in kept.items():
            check_json(value, str(key), nan=True)  # they are stored beside the tokens
        return Prompt(place, prompt, kept, tools)

    return DataFormat(
        name=name,
        family="prompts",
        kind="prompt",
        shape=shape,
        columns=tuple(columns),
        detect=lambda row: columns[0] in row,
        why=f"rows have '{columns[0]}'",
        to_example=read,
        keeps_columns=True,
    )


PROMPTS = (
    _prompts("prompt_only", '{"prompt"} as text or message list', ("prompt", "tools"), _prompt),
    _prompts("prompt_messages", '{"messages"}, an answer at the end is left out',
             ("messages", "system", "tools", "functions"), _dialogue("messages")),
    _prompts("prompt_sharegpt", '{"conversations"}, an answer at the end is left out',
             ("conversations", "system", "tools", "functions"), _dialogue("conversations")),
    _prompts("prompt_alpaca", '{"instruction", "input"}',
             ("instruction", "input", "system", "history"), lambda row: (alpaca.asked(row), ())),
    _prompts("prompt_question", '{"question", "context"}',
             ("question", "context"), lambda row: ((Message("user", question_of(row)),), ())),
)  # fmt: skip
