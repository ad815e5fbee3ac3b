"""Taking values out of a row: every refusal names the field, what was found and what it must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .examples import Row
from .format import BadRow, DataFormat

# Columns that carry meaning in some format. One that the format at hand does not read is an error, because
# training without it would be training on something else than the file says.
ASK = ("prompt", "instruction", "question", "query", "input")
ANSWER = ("completion", "output", "answer", "response", "reply", "target", "label", "labels", "solution")
DIALOGUE = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
BETTER = ("chosen", "preferred", "accepted", "winner", "chosen_response")
WORSE = ("rejected", "rejected_response", "dispreferred", "loser", "rejected_messages")
DOCUMENT = ("text", "content", "document", "body")
TOOLS = ("tools", "functions", "tool_calls", "function_call")
OTHER = (
    "system",
    "system_prompt",
    "context",
    "history",
    "images",
    "videos",
    "audios",
    "kto_tag",
    "margin",
    "spans",
    "entities",
)
FAMILIES = (ASK, ANSWER, DIALOGUE, BETTER, WORSE, DOCUMENT, TOOLS)
MEANINGFUL = frozenset(name for family in (*FAMILIES, OTHER) for name in family)
LARGEST = 3e38  # numbers of rows are kept in 32 bits
SHOWN_NAMES, SHOWN_CHARACTERS = 20, 60  # of what a file holds, in one message


def type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "true or false"}
    if value is None or type(value) in names:
        return "null" if value is None else names[type(value)]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number (of too many digits)"
    return f"a number ({value!r})" if isinstance(value, (int, float)) else f"of type {type(value).__name__}"


def quoted(value: Any) -> str:
    """What a file holds, for a message: on one line, and cut where it is long."""
    if not isinstance(value, str):
        return type_name(value)
    return repr(value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}...")


def listed(names: Iterable[Any]) -> str:
    """Names that a file gave, for a message."""
    shown = [str(name) for name in names]
    more = [f"and {len(shown) - SHOWN_NAMES} more"] if len(shown) > SHOWN_NAMES else []
    plain = (
        name if name.isprintable() and len(name) <= SHOWN_CHARACTERS else quoted(name)
        for name in shown[:SHOWN_NAMES]
    )
    return ", ".join([*plain, *more]) or "none"


def is_empty(value: Any) -> bool:
    """Missing, null, "" and [] all mean: the file has the column, this row does not use it."""
    return (
        value is None or value in ("", "[]", "{}") or (isinstance(value, (list, dict, tuple)) and not value)
    )


def text(row: Row, name: str, *, inside: str = "") -> str:
    """The non-empty text in field `name`; `inside` is the place of a nested object: "messages[2]"."""
    return check_text(given(row, name, inside=inside), f"{inside}.{name}" if inside else name)


def given(row: Row, name: str, *, inside: str = "") -> Any:
    """What is in field `name`, be it null; a row without it is refused."""
    if name not in row:
        field = f"{inside}.{name}" if inside else name
        raise BadRow(field, "missing field", f"is missing; the fields are {listed(row)}")
    return row[name]


def one_of(row: Row, names: Sequence[str]) -> str:
    """The one of these columns that the row uses; where all are null, the first."""
    there = [name for name in names if name in row]
    used = [name for name in there if row[name] is not None] or there[:1]
    if len(used) > 1:
        raise BadRow(used[1], "unread column", f"is there beside '{used[0]}'; keep one of them")
    if not used:
        given(row, names[0])
    return used[0]


def check_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise BadRow(field, "wrong type", f"is {type_name(value)} and must be text")
    if not value.strip():
        raise BadRow(field, "empty", "is empty; fill it or remove the row")
    check_characters(value, field)
    return value


def check_characters(value: str, field: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise BadRow(
            field, "broken text", f"holds half a character (U+{code:04X}); write the text anew"
        ) from None


def optional_text(row: Row, name: str) -> str:
    return "" if is_empty(row.get(name)) else text(row, name)


def optional_number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(name, "wrong type", f"is {type_name(value)} and must be a number")
    if not -LARGEST <= value <= LARGEST:
        shown = value if isinstance(value, float) else "too large"
        raise BadRow(name, "wrong type", f"is {shown} and must be a finite number below {LARGEST:.0e}")
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
