"""OpenAI messages, with tools or without, and ms-swift pairs, which add a second answer to them."""

from __future__ import annotations

from dataclasses import replace

from .. import fields
from ..dialogues.dialogue import dialogue_metric, read_conversation, uses_tools
from ..dialogues.turns import answer_of, check_prompt, read_turns
from ..examples import Pair, Row
from ..format import BadRow, DataFormat


def _read_pair(row: Row, place: str) -> Pair:
    *asked, answer = read_turns(fields.given(row, "messages"), "messages")
    if answer.message.role != "assistant":
        raise BadRow("messages", "order of turns", "must end with the preferred answer, an assistant turn")
    prompt = check_prompt(asked, "messages")
    rejected = fields.text(row, "rejected_response")
    return Pair(place, prompt, answer_of(answer), rejected, fields.optional_number(row, "margin"))


OPENAI_MESSAGES = DataFormat(
    name="openai_messages",
    family="chat",
    kind="conversation",
    shape='{"messages": [{"role", "content"}]}',
    columns=("messages", "system", "tools", "functions"),
    detect=lambda row: "messages" in row and "rejected_response" not in row,
    why="rows have 'messages' with 'role'",
    to_example=lambda row, place: read_conversation(row, place, "messages"),
    metric=dialogue_metric,
)
OPENAI_TOOLS = replace(
    OPENAI_MESSAGES,
    name="openai_tools",
    family="function_calling",
    shape='{"messages": [{"role", "content", "tool_calls"}], "tools"}',
    detect=lambda row: OPENAI_MESSAGES.detect(row) and uses_tools(row, "messages"),
    why="rows have 'messages' with 'role', and tools",
)
SWIFT_RANKING = DataFormat(
    name="swift_ranking",
    family="preference",
    kind="preference",
    shape='{"messages": [...], "rejected_response"}',
    columns=("messages", "rejected_response", "margin"),
    detect=lambda row: "messages" in row and "rejected_response" in row,
    why="rows have 'messages' and 'rejected_response'",
    to_example=_read_pair,
)
