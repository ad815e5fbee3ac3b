"""Alpaca instructions, and LLaMA-Factory's pairs built on them."""

from __future__ import annotations

from .. import fields
from ..dialogues.dialogue import dialogue_metric
from ..examples import Conversation, Message, Pair, Row
from ..format import BadRow, DataFormat


def asked(row: Row) -> tuple[Message, ...]:
    """Everything before the answer."""
    turns = [Message("system", system)] if (system := fields.optional_text(row, "system")) else []
    turns += _history(row)
    parts = [part for name in ("instruction", "input") if (part := fields.optional_text(row, name))]
    if not parts:
        raise BadRow("instruction", "empty", "is empty, and so is 'input'; fill one or remove the row")
    return (*turns, Message("user", "\n".join(parts)))


def _history(row: Row) -> list[Message]:
    turns = []
    given = row.get("history")
    for i, pair in enumerate([] if fields.is_empty(given) else fields.check_list(given, "history")):
        place = f"history[{i}]"
        if len(fields.check_list(pair, place)) != 2:
            raise BadRow(place, "wrong type", f"has {len(pair)} texts and must have two, [user, assistant]")
        turns.append(Message("user", fields.check_text(pair[0], f"{place}[0]")))
        turns.append(Message("assistant", fields.check_text(pair[1], f"{place}[1]")))
    return turns


def _read_instruction(row: Row, place: str) -> Conversation:
    return Conversation(place, (*asked(row), Message("assistant", fields.text(row, "output"))))


def _read_pair(row: Row, place: str) -> Pair:
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    return Pair(place, asked(row), chosen, rejected, fields.optional_number(row, "margin"))


ALPACA = DataFormat(
    name="alpaca",
    family="chat",
    kind="conversation",
    shape='{"instruction", "input", "output"}',
    columns=("instruction", "input", "output", "system", "history"),
    detect=lambda row: {"instruction", "output"} <= row.keys(),
    why="rows have 'instruction' and 'output'",
    to_example=_read_instruction,
    metric=dialogue_metric,
)
ALPACA_RANKING = DataFormat(
    name="alpaca_ranking",
    family="preference",
    kind="preference",
    shape='{"instruction", "input", "chosen", "rejected"}',
    columns=("instruction", "input", "chosen", "rejected", "system", "history", "margin"),
    detect=lambda row: {"instruction", "chosen", "rejected"} <= row.keys(),
    why="rows have 'instruction', 'chosen' and 'rejected'",
    to_example=_read_pair,
)
