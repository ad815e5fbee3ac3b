"""ShareGPT dialogues ({"from": "human", "value": ...}), and LLaMA-Factory's pairs built on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fields
from .examples import Conversation, Message, Pair, Role, Row
from .format import BadRow, DataFormat
from .turns import check_conversation, check_prompt, read_turn, read_turns

ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}


def _turns(row: Row) -> tuple[Message, ...]:
    messages = read_turns(row["conversations"], "conversations", role="from", content="value", roles=ROLES)
    system = fields.optional_text(row, "system")
    if not system:
        return messages
    if messages[0].role == "system":
        raise BadRow(
            "system", "order of turns", "is there beside a system turn in 'conversations'; keep one of them"
        )
    return (Message("system", system), *messages)


def _answer(value: Any, field: str) -> str:
    message = read_turn(value, field, role="from", content="value", roles=ROLES)
    if message.role != "assistant":
        raise BadRow(field, "order of turns", f"is of the {message.role} and must be an assistant turn")
    return message.content


def _read_dialogue(row: Row, place: str) -> Conversation:
    messages = _turns(row)
    check_conversation(messages, "conversations")
    return Conversation(place, messages)


def _read_pair(row: Row, place: str) -> Pair:
    prompt = _turns(row)
    check_prompt(prompt, "conversations")
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    return Pair(place, prompt, chosen, rejected, fields.optional_number(row, "margin"))


SHAREGPT = DataFormat(
    name="sharegpt",
    kind="conversation",
    shape='{"conversations": [{"from", "value"}]}',
    columns=("conversations", "system"),
    recognise=lambda row: "conversations" in row and "chosen" not in row,
    why="rows have 'conversations' with 'from'",
    read=_read_dialogue,
)
SHAREGPT_RANKING = DataFormat(
    name="sharegpt_ranking",
    kind="preference",
    shape='{"conversations": [...], "chosen": {"from", "value"}, "rejected": {"from", "value"}}',
    columns=("conversations", "system", "chosen", "rejected", "margin"),
    recognise=lambda row: {"conversations", "chosen", "rejected"} <= row.keys(),
    why="rows have 'conversations', 'chosen' and 'rejected'",
    read=_read_pair,
)
