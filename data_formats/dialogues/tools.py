"""Tools that a row declares, and the calls it makes of them: checked against each other, arguments as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..examples import Call, Tool
from ..fields import check_list, check_object, check_text, is_empty, listed, quoted, text
from ..format import BadRow

CALL_TAG = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
# JSON Schema has two keywords whose value may be null; the other nulls are Arrow's, which gives every row the keys
# of all rows. What stands under the four is the author's and no schema.
_NULL_MEANS_NULL = frozenset(("default", "const"))
_VALUES = frozenset(("default", "const", "enum", "examples"))
_DEEPEST = 100  # lists and objects in each other; templates and hashes walk through them by recursion


def read_tools(value: Any, field: str) -> tuple[Tool, ...]:
    """A list of tools, or its JSON text; wrapped as OpenAI does, bare, or Anthropic's with `input_schema`."""
    if is_empty(value):
        return ()
    items = check_list(parse_json(value, field), field)
    tools = tuple(_read_tool(item, f"{field}[{i}]") for i, item in enumerate(items))
    names = [name_of(tool) for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BadRow(f"{field}[{i}]", "tool declared twice", f"is {quoted(name)} again; keep one of them")
    return tools


def name_of(tool: Tool) -> str:
    return str(tool["function"]["name"])


def _read_tool(value: Any, place: str) -> Tool:
    tool = check_object(parse_json(value, place), place)
    if isinstance(tool.get("function"), Mapping):
        tool, place = tool["function"], f"{place}.function"
    given: Any = next(
        (tool[key] for key in ("parameters", "input_schema") if not is_empty(tool.get(key))), {}
    )
    parameters = check_object(parse_json(given, f"{place}.parameters"), f"{place}.parameters")
    check_json(parameters, f"{place}.parameters")
    properties = check_object(parameters.get("properties") or {}, f"{place}.parameters.properties")
    required = check_list(parameters.get("required") or [], f"{place}.parameters.required")
    for name in required:
        if not isinstance(name, str) or name not in properties:
            reason = f"names {quoted(name)}, which is not among the properties ({listed(properties)}); fix it"
            raise BadRow(f"{place}.parameters.required", "broken tool", reason)
    own = {"properties": _without_padding(properties)}
    schema = {"type": "object", "properties": {}, **_without_padding(parameters), **own}
    said = tool.get("description")
    description = "" if is_empty(said) else check_text(said, f"{place}.description")
    function = {"name": text(tool, "name", inside=place), "description": description}
    return {"type": "function", "function": {**function, "parameters": schema}}


def _without_padding(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        kept = {key: value for key, value in schema.items() if value is not None or key in _NULL_MEANS_NULL}
        return {key: value if key in _VALUES else _without_padding(value) for key, value in kept.items()}
    return [_without_padding(item) for item in schema] if isinstance(schema, (list, tuple)) else schema


def parse_json(value: Any, field: str) -> Any:
    """The value itself, or what its JSON text says."""
    if not isinstance(value, str):
        return value
    try:
        return _DECODER.decode(value)
    except (ValueError, RecursionError) as error:
        reason = f"is text that is no valid JSON ({error}); write it as JSON"
        raise BadRow(field, "invalid JSON", reason) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {quoted(twice)} stands twice in one object")
    return made


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


def check_json(value: Any, field: str, *, nan: bool = False) -> str:
    """A value of the row as JSON; tables and Python hold what is none. nan: let NaN and Infinity pass."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=nan)
        written.encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        reason = f"holds half a character (U+{code:04X}); write the text anew"
        raise BadRow(field, "broken text", reason) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(field, "no JSON", f"cannot be written as JSON ({error}); fix the value") from None
    if _is_deep(value):
        raise BadRow(field, "no JSON", f"holds lists or objects in each other {_DEEPEST} times; flatten it")
    return written


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(_DEEPEST):
        inside = [outer for outer in layer if isinstance(outer, (Mapping, list, tuple))]
        if not inside:
            return False
        layer = [
            inner for outer in inside for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    return True


def read_calls(value: Any, field: str) -> tuple[list[Call], list[str]]:
    """OpenAI's `tool_calls`, or one call, and the id of each ("" without one)."""
    parsed = parse_json(value, field)
    items = [parsed] if isinstance(parsed, Mapping) else check_list(parsed, field)
    if not items:
        raise BadRow(field, "empty", "is an empty list of calls; write a call or leave the turn out")
    places = [field] if isinstance(parsed, Mapping) else [f"{field}[{i}]" for i in range(len(items))]
    rows = [check_object(item, place) for item, place in zip(items, places, strict=True)]
    ids = [str(row.get("id") or "") for row in rows]
    return [_read_call(row, place) for row, place in zip(rows, places, strict=True)], ids


def _read_call(row: Mapping[str, Any], place: str) -> Call:
    if isinstance(row.get("function"), Mapping):
        row, place = row["function"], f"{place}.function"
    given: Any = next(
        (row[key] for key in ("arguments", "input", "parameters") if row.get(key) is not None), {}
    )
    if isinstance(given, str) and not given.strip():
        given = {}  # what APIs write for a call without arguments
    name = text(row, "name", inside=place)
    arguments = check_object(parse_json(given, f"{place}.arguments"), f"{place}.arguments")
    check_json(arguments, f"{place}.arguments")
    return Call(name, arguments)


def read_call_text(value: Any, field: str) -> tuple[str, str, list[Call]]:
    """(reasoning, text, calls) of a turn written as text: JSON, or JSON in <tool_call> tags amid text."""
    if not isinstance(value, str):
        return "", "", read_calls(value, field)[0]
    reasoning, rest = split_thought(check_text(value, field))
    tagged = CALL_TAG.findall(rest)
    calls = [call for body in tagged or [rest] for call in read_calls(body, field)[0]]
    said = CALL_TAG.sub("", rest).strip() if tagged else ""
    if "tool_call>" in said:
        raise BadRow(field, "invalid JSON", "has a <tool_call> tag that is not closed; close it")
    return reasoning, said, calls


def split_thought(content: str) -> tuple[str, str]:
    """(what stands in <think> at the beginning, the rest)."""
    match = THOUGHT.match(content)
    return (match[1].strip(), content[match.end() :]) if match else ("", content)


def check_call(call: Call, tools: Sequence[Tool], place: str) -> Call:
    """The call, if it is of a declared tool and has its required arguments."""
    declared = {name_of(tool): tool["function"]["parameters"] for tool in tools}
    if call.name not in declared:
        known = f"the row declares {listed(declared)}" if declared else "the row declares none"
        reason = f"calls {quoted(call.name)}, and {known}; declare it in 'tools' or fix the name"
        raise BadRow(place, "undeclared tool", reason)
    schema = declared[call.name]
    properties = schema["properties"]
    # A null for an argument that this tool never had is Arrow's padding, not the author's.
    arguments = {
        k: v for k, v in call.arguments.items() if v is not None or k in properties or not properties
    }
    for name in schema.get("required") or ():
        if name not in arguments:
            reason = (
                f"calls {quoted(call.name)} with no argument {quoted(name)}, which the tool requires; add it"
            )
            raise BadRow(place, "missing argument", reason)
    for name in arguments if schema.get("additionalProperties") is False else ():
        if name not in properties:
            reason = f"calls {quoted(call.name)} with an argument {quoted(name)}, which the tool does not take ({listed(properties)}); remove it"
            raise BadRow(place, "unknown argument", reason)
    return Call(call.name, arguments)
