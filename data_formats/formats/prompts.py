"""TRL's forms: prompt and completion, and pairs with the prompt written out or shared by both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .. import fields
from ..dialogues.dialogue import dialogue_metric
from ..dialogues.tools import read_tools
from ..dialogues.turns import Turn, answer_of, check_conversation, check_prompt, read_turns
from ..examples import Completion, Conversation, Message, Pair, Row
from ..format import BadRow, DataFormat


def _check_same_type(row: Row, names: Sequence[str]) -> bool:
    """Whether the fields hold plain texts; they hold message lists otherwise, never a mixture."""
    for name in names:
        if not isinstance(fields.given(row, name), (str, list, tuple)):
            found = fields.type_name(row[name])
            raise BadRow(name, "wrong type", f"is {found} and must be text or a list of messages")
        if isinstance(row[name], str) != isinstance(row[names[0]], str):
            both = f"'{names[0]}' is {fields.type_name(row[names[0]])}"
            reason = f"is {fields.type_name(row[name])} while {both}; write both as text or both as messages"
            raise BadRow(name, "wrong type", reason)
    return isinstance(row[names[0]], str)


def _read_completion(row: Row, place: str) -> Completion | Conversation:
    if _check_same_type(row, ("prompt", "completion")):
        if not fields.is_empty(row.get("tools")):
            raise BadRow("tools", "unread column", "needs messages in 'prompt' and 'completion', not texts")
        return Completion(place, fields.text(row, "prompt"), fields.text(row, "completion"))
    # Only the completion is learned: answers inside the prompt are there to be read.
    prompt = [
        turn._replace(message=replace(turn.message, trained=False))
        for turn in read_turns(row["prompt"], "prompt")
    ]
    completion = read_turns(row["completion"], "completion")
    tools = read_tools(row.get("tools"), "tools")
    check_prompt(prompt, "prompt", tools)
    return Conversation(place, check_conversation((*prompt, *completion), "completion", tools), tools)


def _read_explicit(row: Row, place: str) -> Pair:
    margin = fields.optional_number(row, "margin")
    if _check_same_type(row, ("prompt", "chosen", "rejected")):
        prompt, chosen, rejected = (fields.text(row, name) for name in ("prompt", "chosen", "rejected"))
        return Pair(place, prompt, chosen, rejected, margin)
    messages = check_prompt(read_turns(row["prompt"], "prompt"), "prompt")
    return Pair(
        place, messages, _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected"), margin
    )


def _read_implicit(row: Row, place: str) -> Pair:
    chosen, rejected = (read_turns(fields.given(row, name), name) for name in ("chosen", "rejected"))
    if _said(chosen[:-1]) != _said(rejected[:-1]):
        reason = "differs from 'chosen' before the last turn; both must be one prompt and one answer each"
        raise BadRow("rejected", "order of turns", reason)
    prompt = check_prompt(chosen[:-1], "chosen")
    return Pair(
        place, prompt, answer_of(chosen[-1]), answer_of(rejected[-1]), fields.optional_number(row, "margin")
    )


def _said(turns: Sequence[Turn]) -> list[Message]:
    return [turn.message for turn in turns]


def _answer(value: Any, field: str) -> str:
    turns = read_turns(value, field)
    if len(turns) != 1:
        raise BadRow(field, "order of turns", f"has {len(turns)} turns and must be one assistant turn")
    return answer_of(turns[0])


def _is_implicit(row: Row) -> bool:
    return not {"prompt", "conversations"} & row.keys() and all(
        isinstance(row.get(name), list) for name in ("chosen", "rejected")
    )


PROMPT_COMPLETION = DataFormat(
    name="prompt_completion",
    family="chat",
    kind="conversation",
    shape='{"prompt", "completion"} as texts or message lists',
    columns=("prompt", "completion", "tools"),
    detect=lambda row: {"prompt", "completion"} <= row.keys(),
    why="rows have 'prompt' and 'completion'",
    to_example=_read_completion,
    metric=dialogue_metric,
)
EXPLICIT_PROMPT = DataFormat(
    name="trl_explicit_prompt",
    family="preference",
    kind="preference",
    shape='{"prompt", "chosen", "rejected"} as texts or message lists',
    columns=("prompt", "chosen", "rejected", "margin"),
    detect=lambda row: {"prompt", "chosen", "rejected"} <= row.keys(),
    why="rows have 'prompt', 'chosen' and 'rejected'",
    to_example=_read_explicit,
)
IMPLICIT_PROMPT = DataFormat(
    name="trl_implicit_prompt",
    family="preference",
    kind="preference",
    shape='{"chosen", "rejected"} as message lists that share their beginning',
    columns=("chosen", "rejected", "margin"),
    detect=_is_implicit,
    why="rows have 'chosen' and 'rejected' message lists and no prompt",
    to_example=_read_implicit,
)
