"""What all dialogue formats share: the turns of one column, the row's system prompt and its tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import fields
from ..examples import Conversation, Message, Row, Tool
from ..format import BadRow, Gold
from ..scoring import metrics
from .tools import read_tools
from .turns import Turn, check_conversation, read_turns

TOOL_COLUMNS = ("tools", "functions")  # today's and OpenAI's first name


def read_dialogue(row: Row, column: str) -> tuple[tuple[Turn, ...], tuple[Tool, ...]]:
    """(turns, tools) of a row; the order of the turns is not yet checked."""
    turns = read_turns(fields.given(row, column), column)
    if system := fields.optional_text(row, "system"):
        if turns[0].message.role == "system":
            reason = f"is there beside a system turn in '{column}'; keep one of them"
            raise BadRow("system", "order of turns", reason)
        turns = (Turn(Message("system", system), "system"), *turns)
    given = [name for name in TOOL_COLUMNS if not fields.is_empty(row.get(name))]
    if len(given) > 1:
        raise BadRow(given[1], "unread column", f"is there beside '{given[0]}'; keep one of them")
    return turns, read_tools(row[given[0]], given[0]) if given else ()


def read_conversation(row: Row, place: str, column: str) -> Conversation:
    turns, tools = read_dialogue(row, column)
    return Conversation(place, check_conversation(turns, column, tools), tools)


def uses_tools(row: Row, column: str) -> bool:
    """Whether the row is about function calling: it declares tools, if only an empty list, or has such turns."""
    turns = row.get(column)
    listed = turns if isinstance(turns, (list, tuple)) else ()
    return any(name in row for name in TOOL_COLUMNS) or any(map(_is_tool_turn, listed))


def _is_tool_turn(turn: object) -> bool:
    if not isinstance(turn, Mapping):
        return False
    role = turn.get("role", turn.get("from"))
    parts = turn.get("content")
    blocks = parts if isinstance(parts, (list, tuple)) else ()
    return (
        role in ("tool", "function", "observation", "function_call", "tool_call", "tool_response")
        or not fields.is_empty(turn.get("tool_calls"))
        or any(isinstance(part, Mapping) and part.get("type") == "tool_use" for part in blocks)
    )


def gold_of(messages: Sequence[Message]) -> Gold:
    """What the last turn is judged by, where the format says nothing else."""
    return {"calls": [call.as_dict() for call in messages[-1].calls], "answer": messages[-1].content}


def dialogue_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, float]:
    """The share of answers that stop by themselves; of those that must call tools, how many calls are right."""
    numbers = {"stop_rate": metrics.stop_rate(answers)}
    calling = [
        (gold["calls"], answer) for gold, answer in zip(golds, answers, strict=True) if gold.get("calls")
    ]
    if calling:
        numbers |= metrics.call_scores(
            [calls for calls, _ in calling], [answer.text for _, answer in calling]
        )
    return numbers
