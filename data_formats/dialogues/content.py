"""What one message says: text, or a list of parts as OpenAI and Anthropic write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..examples import Call, Role
from ..fields import check_characters, check_object, quoted, type_name
from ..format import BadRow
from .tools import check_json, read_calls

_TEXT = ("text", "input_text", "output_text")
PARTS: Mapping[Role, tuple[str, ...]] = {  # that a turn of each role can be made of
    "system": _TEXT,
    "user": (*_TEXT, "tool_result"),
    "assistant": (*_TEXT, "thinking", "tool_use"),
    "tool": _TEXT,
}


@dataclass(frozen=True, slots=True)
class Content:
    text: str
    plain: bool = False  # it was no list of parts; whether it is text is checked where it must be
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    ids: tuple[str, ...] = ()  # of the calls
    results: tuple[tuple[str, str], ...] = ()  # (id of the call, what the tool returned)


def read_content(value: Any, field: str, role: Role) -> Content:
    """Text, or parts of the types that the role can have; another part is refused by name."""
    if not isinstance(value, (list, tuple)):
        return Content(value if isinstance(value, str) else "", plain=True)
    texts, thoughts = list[str](), list[str]()
    calls, ids, results = list[Call](), list[str](), list[tuple[str, str]]()
    for i, item in enumerate(value):
        place = f"{field}[{i}]"
        part = check_object(item, place)
        kind = part.get("type")
        if kind not in PARTS[role]:
            taken = ", ".join(name for name in PARTS[role] if name not in _TEXT[1:])
            reason = f"is {quoted(kind)}; on {role} turns are read {taken}, and no images or sound"
            raise BadRow(f"{place}.type", "unread part", reason)
        if kind in _TEXT:
            texts.append(_text_of(part.get("text"), f"{place}.text"))
        elif kind == "thinking":
            thoughts.append(_text_of(part.get("thinking"), f"{place}.thinking"))
        elif kind == "tool_use":
            made, made_ids = read_calls(part, place)
            calls, ids = calls + made, ids + made_ids
        else:
            given = part.get("content")  # the API lets a tool that returns nothing leave it out
            result = "" if given is None else read_result(given, f"{place}.content")
            results.append((str(part.get("tool_use_id") or ""), result))
    return Content("\n".join(texts), False, "\n".join(thoughts), tuple(calls), tuple(ids), tuple(results))


def _text_of(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise BadRow(field, "wrong type", f"is {type_name(value)} and must be text")
    check_characters(value, field)
    return value


def read_result(value: Any, field: str) -> str:
    """What a tool returned: text, which may be empty, parts of text, or a JSON value."""
    if value is None:
        raise BadRow(field, "wrong type", "is null and must be the result of the tool; write it, be it empty")
    if isinstance(value, str):
        return _text_of(value, field)
    typed = isinstance(value, (list, tuple)) and all(isinstance(p, Mapping) and "type" in p for p in value)
    return read_content(value, field, "tool").text if value and typed else check_json(value, field)
