"""ShareGPT dialogues ({"from": "human", "value": ...}), LLaMA-Factory's pairs built on them, ms-swift's rounds."""

from __future__ import annotations

from dataclasses import replace

from .. import fields
from ..dialogues.dialogue import dialogue_metric, read_conversation, read_dialogue, uses_tools
from ..dialogues.turns import check_prompt, read_answer
from ..examples import Conversation, Message, Pair, Row
from ..format import BadRow, DataFormat


def _read_pair(row: Row, place: str) -> Pair:
    asked, tools = read_dialogue(row, "conversations")
    prompt = check_prompt(asked, "conversations", tools)
    chosen, rejected = (read_answer(fields.given(row, name), name) for name in ("chosen", "rejected"))
    return Pair(place, prompt, chosen, rejected, fields.optional_number(row, "margin"))


def _read_rounds(row: Row, place: str) -> Conversation:
    turns = [Message("system", system)] if (system := fields.optional_text(row, "system")) else []
    rounds = fields.check_list(fields.given(row, "conversation"), "conversation")
    if not rounds:
        raise BadRow("conversation", "empty", "is an empty list; remove the row")
    for i, item in enumerate(rounds):
        both = fields.check_object(item, f"conversation[{i}]")
        turns.append(Message("user", fields.text(both, "human", inside=f"conversation[{i}]")))
        turns.append(Message("assistant", fields.text(both, "assistant", inside=f"conversation[{i}]")))
    return Conversation(place, tuple(turns))


SHAREGPT = DataFormat(
    name="sharegpt",
    family="chat",
    kind="conversation",
    shape='{"conversations": [{"from", "value"}]}',
    columns=("conversations", "system", "tools", "functions"),
    detect=lambda row: "conversations" in row and "chosen" not in row,
    why="rows have 'conversations' with 'from'",
    to_example=lambda row, place: read_conversation(row, place, "conversations"),
    metric=dialogue_metric,
)
SHAREGPT_TOOLS = replace(
    SHAREGPT,
    name="sharegpt_tools",
    family="function_calling",
    shape='{"conversations": [{"from": "function_call", ...}], "tools"}',
    detect=lambda row: SHAREGPT.detect(row) and uses_tools(row, "conversations"),
    why="rows have 'conversations' with 'from', and tools",
)
ROUNDS = DataFormat(
    name="rounds",
    family="chat",
    kind="conversation",
    shape='{"conversation": [{"human", "assistant"}]}',
    columns=("conversation", "system"),
    detect=lambda row: "conversation" in row,
    why="rows have 'conversation' with rounds of 'human' and 'assistant'",
    to_example=_read_rounds,
    metric=dialogue_metric,
)
SHAREGPT_RANKING = DataFormat(
    name="sharegpt_ranking",
    family="preference",
    kind="preference",
    shape='{"conversations": [...], "chosen": {"from", "value"}, "rejected": {"from", "value"}}',
    columns=("conversations", "system", "chosen", "rejected", "margin"),
    detect=lambda row: {"conversations", "chosen", "rejected"} <= row.keys(),
    why="rows have 'conversations', 'chosen' and 'rejected'",
    to_example=_read_pair,
)
