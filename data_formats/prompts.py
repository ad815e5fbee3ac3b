"""TRL's forms: prompt and completion, and pairs with the prompt written out or shared by both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import fields
from .examples import Completion, Conversation, Message, Pair, Row
from .format import BadRow, DataFormat
from .turns import check_conversation, check_prompt, read_turns


def _check_same_type(row: Row, names: Sequence[str]) -> bool:
    """Whether the fields hold plain texts; they hold message lists otherwise, never a mixture."""
    for name in names:
        if name not in row:
            raise BadRow(name, "missing field", f"is missing; the fields are {', '.join(map(str, row))}")
        if not isinstance(row[name], (str, list, tuple)):
            found = fields.type_name(row[name])
            raise BadRow(name, "wrong type", f"is {found} and must be text or a list of messages")
        if isinstance(row[name], str) != isinstance(row[names[0]], str):
            both = f"'{names[0]}' is {fields.type_name(row[names[0]])}"
            reason = f"is {fields.type_name(row[name])} while {both}; write both as text or both as messages"
            raise BadRow(name, "wrong type", reason)
    return isinstance(row[names[0]], str)


def _read_completion(row: Row, place: str) -> Completion | Conversation:
    if _check_same_type(row, ("prompt", "completion")):
        return Completion(place, fields.text(row, "prompt"), fields.text(row, "completion"))
    # Only the completion is learned: answers inside the prompt are there to be read.
    prompt = [replace(message, trained=False) for message in read_turns(row["prompt"], "prompt")]
    completion = read_turns(row["completion"], "completion")
    check_prompt(prompt, "prompt")
    check_conversation((*prompt, *completion), "prompt+completion")
    return Conversation(place, (*prompt, *completion))


def _read_explicit(row: Row, place: str) -> Pair:
    margin = fields.optional_number(row, "margin")
    if _check_same_type(row, ("prompt", "chosen", "rejected")):
        prompt, chosen, rejected = (fields.text(row, name) for name in ("prompt", "chosen", "rejected"))
        return Pair(place, prompt, chosen, rejected, margin)
    messages = read_turns(row["prompt"], "prompt")
    check_prompt(messages, "prompt")
    return Pair(
        place, messages, _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected"), margin
    )


def _read_implicit(row: Row, place: str) -> Pair:
    chosen, rejected = read_turns(row["chosen"], "chosen"), read_turns(row["rejected"], "rejected")
    if chosen[:-1] != rejected[:-1]:
        reason = "differs from 'chosen' before the last turn; both must be one prompt and one answer each"
        raise BadRow("rejected", "order of turns", reason)
    check_prompt(chosen[:-1], "chosen")
    answers = _last_answer(chosen, "chosen"), _last_answer(rejected, "rejected")
    return Pair(place, chosen[:-1], *answers, fields.optional_number(row, "margin"))


def _answer(value: Any, field: str) -> str:
    turns = read_turns(value, field)
    if len(turns) != 1:
        raise BadRow(field, "order of turns", f"has {len(turns)} turns and must be one assistant turn")
    return _last_answer(turns, field)


def _last_answer(turns: Sequence[Message], field: str) -> str:
    if turns[-1].role != "assistant":
        raise BadRow(f"{field}[{len(turns) - 1}]", "order of turns", "must be an assistant turn")
    return turns[-1].content


def _is_implicit(row: Row) -> bool:
    return not {"prompt", "conversations"} & row.keys() and all(
        isinstance(row.get(name), list) for name in ("chosen", "rejected")
    )


PROMPT_COMPLETION = DataFormat(
    name="prompt_completion",
    kind="conversation",
    shape='{"prompt", "completion"} as texts or message lists',
    columns=("prompt", "completion"),
    recognise=lambda row: {"prompt", "completion"} <= row.keys(),
    why="rows have 'prompt' and 'completion'",
    read=_read_completion,
)
EXPLICIT_PROMPT = DataFormat(
    name="trl_explicit_prompt",
    kind="preference",
    shape='{"prompt", "chosen", "rejected"} as texts or message lists',
    columns=("prompt", "chosen", "rejected", "margin"),
    recognise=lambda row: {"prompt", "chosen", "rejected"} <= row.keys(),
    why="rows have 'prompt', 'chosen' and 'rejected'",
    read=_read_explicit,
)
IMPLICIT_PROMPT = DataFormat(
    name="trl_implicit_prompt",
    kind="preference",
    shape='{"chosen", "rejected"} as message lists that share their beginning',
    columns=("chosen", "rejected", "margin"),
    recognise=_is_implicit,
    why="rows have 'chosen' and 'rejected' message lists and no prompt",
    read=_read_implicit,
)
