"""Alpaca instructions, and LLaMA-Factory's pairs built on them."""

from __future__ import annotations

from . import fields
from .examples import Conversation, Message, Pair, Row
from .format import BadRow, DataFormat
from .turns import check_conversation


def _prompt(row: Row) -> tuple[Message, ...]:
    turns = [Message("system", system)] if (system := fields.optional_text(row, "system")) else []
    turns += _history(row)
    asked = [part for name in ("instruction", "input") if (part := fields.optional_text(row, name))]
    if not asked:
        raise BadRow("instruction", "empty", "is empty, and so is 'input'; fill one or remove the row")
    return (*turns, Message("user", "\n".join(asked)))


def _history(row: Row) -> list[Message]:
    turns = []
    for i, pair in enumerate(fields.check_list(row.get("history") or [], "history")):
        place = f"history[{i}]"
        if len(fields.check_list(pair, place)) != 2:
            raise BadRow(place, "wrong type", f"has {len(pair)} texts and must have two, [user, assistant]")
        turns.append(Message("user", fields.check_text(pair[0], f"{place}[0]")))
        turns.append(Message("assistant", fields.check_text(pair[1], f"{place}[1]")))
    return turns


def _read_instruction(row: Row, place: str) -> Conversation:
    messages = (*_prompt(row), Message("assistant", fields.text(row, "output")))
    check_conversation(messages, "history")
    return Conversation(place, messages)


def _read_pair(row: Row, place: str) -> Pair:
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    return Pair(place, _prompt(row), chosen, rejected, fields.optional_number(row, "margin"))


ALPACA = DataFormat(
    name="alpaca",
    kind="conversation",
    shape='{"instruction", "input", "output"}',
    columns=("instruction", "input", "output", "system", "history"),
    recognise=lambda row: {"instruction", "output"} <= row.keys(),
    why="rows have 'instruction' and 'output'",
    read=_read_instruction,
)
ALPACA_RANKING = DataFormat(
    name="alpaca_ranking",
    kind="preference",
    shape='{"instruction", "input", "chosen", "rejected"}',
    columns=("instruction", "input", "chosen", "rejected", "system", "history", "margin"),
    recognise=lambda row: {"instruction", "chosen", "rejected"} <= row.keys(),
    why="rows have 'instruction', 'chosen' and 'rejected'",
    read=_read_pair,
)
