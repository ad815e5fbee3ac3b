"""OpenAI messages, and ms-swift pairs, which add a second answer to them."""

from __future__ import annotations

from . import fields
from .examples import Conversation, Pair, Row
from .format import BadRow, DataFormat
from .turns import check_conversation, check_prompt, read_turns


def _read_messages(row: Row, place: str) -> Conversation:
    messages = read_turns(row["messages"], "messages")
    check_conversation(messages, "messages")
    return Conversation(place, messages)


def _read_pair(row: Row, place: str) -> Pair:
    messages = read_turns(row["messages"], "messages")
    if messages[-1].role != "assistant":
        raise BadRow("messages", "order of turns", "must end with the preferred answer, an assistant turn")
    check_prompt(messages[:-1], "messages")
    rejected = fields.text(row, "rejected_response")
    return Pair(place, messages[:-1], messages[-1].content, rejected, fields.optional_number(row, "margin"))


OPENAI_MESSAGES = DataFormat(
    name="openai_messages",
    kind="conversation",
    shape='{"messages": [{"role", "content"}]}',
    columns=("messages",),
    recognise=lambda row: "messages" in row and "rejected_response" not in row,
    why="rows have 'messages' with 'role'",
    read=_read_messages,
)
SWIFT_RANKING = DataFormat(
    name="swift_ranking",
    kind="preference",
    shape='{"messages": [...], "rejected_response"}',
    columns=("messages", "rejected_response", "margin"),
    recognise=lambda row: "messages" in row and "rejected_response" in row,
    why="rows have 'messages' and 'rejected_response'",
    read=_read_pair,
)
