"""Taking values out of a row: every refusal names the field, what was found and what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from .examples import Row
from .format import BadRow, DataFormat

FUNCTION_CALLING = "holds function calling, which is not read yet; leave these rows out"

# Columns that carry meaning in some format. One that the format at hand does not read is an error, because
# training without it would be training on something else than the file says.
ASK = ("prompt", "instruction", "question", "query", "input")
ANSWER = ("completion", "output", "answer", "response", "reply", "target", "label", "labels", "solution")
DIALOGUE = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
BETTER = ("chosen", "preferred", "accepted", "winner", "chosen_response")
WORSE = ("rejected", "rejected_response", "dispreferred", "loser", "rejected_messages")
DOCUMENT = ("text", "content", "document", "body")
TOOLS = ("tools", "tool_calls", "functions", "function_call")
OTHER = ("system", "system_prompt", "history", "images", "videos", "audios", "kto_tag", "margin")
FAMILIES = (ASK, ANSWER, DIALOGUE, BETTER, WORSE, DOCUMENT)
MEANINGFUL = frozenset(name for family in (*FAMILIES, TOOLS, OTHER) for name in family)


def type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), f"a number ({value!r})")


def is_empty(value: Any) -> bool:
    """Missing, null, "" and [] all mean: the file has the column, this row does not use it."""
    return (
        value is None or value in ("", "[]", "{}") or (isinstance(value, (list, dict, tuple)) and not value)
    )


def text(row: Row, name: str, *, inside: str = "") -> str:
    """The non-empty text in field `name`; `inside` is the place of a nested object: "messages[2]"."""
    field = f"{inside}.{name}" if inside else name
    if name not in row:
        raise BadRow(field, "missing field", f"is missing; the fields are {', '.join(map(str, row))}")
    return check_text(row[name], field)


def check_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise BadRow(field, "wrong type", f"is {type_name(value)} and must be text")
    if not value.strip():
        raise BadRow(field, "empty", "is empty; fill it or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise BadRow(
            field, "broken text", f"holds half a character (U+{code:04X}); write the text anew"
        ) from None
    return value


def optional_text(row: Row, name: str) -> str:
    return "" if is_empty(row.get(name)) else text(row, name)


def optional_number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(name, "wrong type", f"is {type_name(value)} and must be a number")
    if not isfinite(value):
        raise BadRow(name, "wrong type", f"is {value} and must be a finite number")
    return float(value)


def check_object(value: Any, field: str) -> Row:
    if not isinstance(value, Mapping):
        raise BadRow(field, "wrong type", f"is {type_name(value)} and must be an object")
    return value


def check_list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise BadRow(field, "wrong type", f"is {type_name(value)} and must be a list")
    return list(value)


def unread_columns(row: Row, format_: DataFormat) -> list[str]:
    """The columns this format leaves alone ("id", "source"); one that looks like data is refused."""
    unread = [name for name in row if name not in format_.columns and not is_empty(row[name])]
    for name in unread:
        if name in TOOLS:
            raise BadRow(name, "function calling", FUNCTION_CALLING)
        if name in MEANINGFUL:
            raise BadRow(name, "unread column", _did_you_mean(name, format_))
    return unread


def _did_you_mean(name: str, format_: DataFormat) -> str:
    family = next((family for family in FAMILIES if name in family), ())
    meant = [f"'{column}'" for column in format_.columns if column in family]
    advice = f"did you mean {' or '.join(meant)}? Rename" if meant else "rename"
    return (
        f"is not read by format {format_.name} ({', '.join(format_.columns)}); {advice} or remove the column"
    )
