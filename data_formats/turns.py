"""Reading the turns of a dialogue, and the rules about their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .examples import Message, Role, Row
from .fields import FUNCTION_CALLING, check_list, check_object, is_empty, text, type_name
from .format import BadRow

OPENAI: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
FUNCTION_ROLES = frozenset(
    [
        "tool",
        "function",
        "function_call",
        "function_response",
        "observation",
        "observations",
        "tool_call",
        "tool_response",
    ]
)
FUNCTION_KEYS = frozenset(("tool_calls", "function_call", "tool_call_id"))
# Keys that change what a message says or how it is trained; other unread ones ("name", "id") do not.
MEANINGFUL_KEYS = frozenset(
    ["reasoning_content", "reasoning", "thinking", "weight", "loss_scale", "images", "videos", "audios"]
)


def read_turns(
    value: Any,
    field: str,
    *,
    role: str = "role",
    content: str = "content",
    roles: Mapping[str, Role] = OPENAI,
) -> tuple[Message, ...]:
    """The messages of one list, in canonical roles; their order is not yet checked."""
    turns = check_list(value, field)
    if not turns:
        raise BadRow(field, "empty", "is an empty list; remove the row")
    rows = [check_object(turn, f"{field}[{i}]") for i, turn in enumerate(turns)]
    found = sorted({str(row.get(role)) for row in rows})
    return tuple(_read_turn(row, f"{field}[{i}]", role, content, roles, found) for i, row in enumerate(rows))


def read_turn(value: Any, field: str, *, role: str, content: str, roles: Mapping[str, Role]) -> Message:
    """One message object that stands alone, as the answers of a ranking row do."""
    row = check_object(value, field)
    return _read_turn(row, field, role, content, roles, [str(row.get(role))])


def _read_turn(
    row: Row, place: str, role: str, content: str, roles: Mapping[str, Role], found: Sequence[str]
) -> Message:
    name = text(row, role, inside=place)
    if name in FUNCTION_ROLES or any(not is_empty(row.get(key)) for key in FUNCTION_KEYS):
        raise BadRow(place, "function calling", FUNCTION_CALLING)
    if name not in roles:
        known = ", ".join(roles)
        reason = f"is '{name}', which is no known role; the roles found are {', '.join(found)}, the known ones {known}"
        raise BadRow(f"{place}.{role}", "unknown role", reason)
    for key in MEANINGFUL_KEYS.intersection(row):
        if not is_empty(row[key]):
            raise BadRow(
                f"{place}.{key}", "unread column", "is not read; per turn there is only 'loss': 0 or 1"
            )
    return Message(roles[name], text(row, content, inside=place), _is_trained(row, place, roles[name]))


def _is_trained(row: Row, place: str, role: Role) -> bool:
    loss = row.get("loss")
    if loss is None:
        return True
    if loss not in (0, 1):
        found = f"'{loss}'" if isinstance(loss, str) else type_name(loss)
        raise BadRow(f"{place}.loss", "wrong type", f"is {found} and must be true, false, 0 or 1")
    if loss and role != "assistant":
        raise BadRow(
            f"{place}.loss", "wrong type", f"asks to train on a {role} turn; only assistant turns are trained"
        )
    return bool(loss)


def check_conversation(messages: Sequence[Message], field: str) -> None:
    """A dialogue to learn from: turns alternate, and it ends with an answer."""
    if not any(message.role == "assistant" for message in messages):
        raise BadRow(field, "order of turns", "has no assistant turn, so there is nothing to learn from it")
    _check_order(messages, field)
    if messages[-1].role == "user":
        raise BadRow(field, "order of turns", "ends with a user turn; add the answer or remove the turn")
    if not any(message.trained for message in messages if message.role == "assistant"):
        raise BadRow(field, "nothing trained", "has 'loss' 0 on every assistant turn; remove the row")


def check_prompt(messages: Sequence[Message], field: str) -> None:
    """The part of a dialogue that waits for an answer."""
    _check_order(messages, field)
    if not messages or messages[-1].role != "user":
        raise BadRow(field, "order of turns", "is a prompt and must end with a user turn")


def _check_order(messages: Sequence[Message], field: str) -> None:
    expected = "user"
    for i, message in enumerate(messages):
        if message.role == "system":
            if i > 0:
                reason = "is a system turn; only the first turn can be one"
                raise BadRow(f"{field}[{i}]", "order of turns", reason)
            continue
        if message.role != expected:
            reason = f"is of the {message.role}, where the {expected} must speak; users and assistants take turns, the user first"
            raise BadRow(f"{field}[{i}]", "order of turns", reason)
        expected = "assistant" if expected == "user" else "user"
