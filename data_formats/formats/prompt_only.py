"""Prompts for the stages in which the model answers itself: any row that asks something, without its answer.

Columns that are no part of the prompt go to reward functions. So does an answer that a dialogue ends with: `answer` is
its text and `calls` its calls, unless the row has columns of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import fields
from ..dialogues.dialogue import gold_of, read_dialogue
from ..dialogues.tools import check_json, read_tools
from ..dialogues.turns import check_prompt, read_turns
from ..examples import Message, Prompt, Row, Tool
from ..format import BadRow, DataFormat
from . import alpaca
from .qa import asked_of

# The prompt, its tools, and what the answer said that the row has and the prompt has not.
Asked = tuple[tuple[Message, ...] | str, tuple[Tool, ...], Mapping[str, Any]]


def _prompt(row: Row) -> Asked:
    if not isinstance(fields.given(row, "prompt"), (list, tuple)):
        if not fields.is_empty(row.get("tools")):
            raise BadRow("tools", "unread column", "needs messages in 'prompt', not text")
        return fields.text(row, "prompt"), (), {}
    tools = read_tools(row.get("tools"), "tools")
    return check_prompt(read_turns(row["prompt"], "prompt"), "prompt", tools), tools, {}


def _dialogue(column: str) -> Callable[[Row], Asked]:
    def asked(row: Row) -> Asked:
        turns, tools = read_dialogue(row, column)
        if turns[-1].message.role != "assistant":
            return check_prompt(turns, column, tools), tools, {}
        gold = {name: said for name, said in gold_of([turns[-1].message]).items() if said}
        return check_prompt(turns[:-1], column, tools), tools, gold

    return asked


def _prompts(name: str, shape: str, columns: Sequence[str], ask: Callable[[Row], Asked]) -> DataFormat:
    def read(row: Row, place: str) -> Prompt:
        prompt, tools, gold = ask(row)
        kept = {**gold, **{key: row[key] for key in row if key not in columns}}
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
    _prompts("prompt_messages", '{"messages"}, an answer at the end is for reward functions alone',
             ("messages", "system", "tools", "functions"), _dialogue("messages")),
    _prompts("prompt_sharegpt", '{"conversations"}, an answer at the end is for reward functions alone',
             ("conversations", "system", "tools", "functions"), _dialogue("conversations")),
    _prompts("prompt_alpaca", '{"instruction", "input"}',
             ("instruction", "input", "system", "history"), lambda row: (alpaca.asked(row), (), {})),
    _prompts("prompt_question", '{"question", "context"}',
             ("question", "context", "system"), lambda row: (asked_of(row), (), {})),
)  # fmt: skip
