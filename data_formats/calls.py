"""The function calls in what a model wrote, whatever chat template it learned them from."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from .examples import Call as Call


@dataclass(frozen=True)
class Found:
    calls: tuple[Call, ...]
    broken: int  # tags and markers that open a call, with nothing readable behind them


def calls_in(text: str) -> Found:
    """Every call in the text, in the order they were written; what was drafted before </think> is none.

    Without a tag or marker the whole text must be calls: prose that shows one makes none.

    >>> calls_in('<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>').calls
    (Call(name='weather', arguments={'city': 'Paris'}),)
    """
    calls, at = _bare(text, 0) or ([], 0)
    broken = 0
    while mark := _MARK.search(text, at):
        read = _READERS[str(mark.lastgroup)](text, mark.end())
        if mark.lastgroup == "thought":
            calls, broken = [], 0
        elif read is None:
            broken += 1
        found, at = read or ([], mark.end())
        calls += found
    return Found(tuple(calls), broken)


Read = tuple[list[Call], int] | None  # the calls and the place behind them; None: not readable

# What opens a call, named after its reader. DeepSeek writes U+FF5C and U+2581, not | and _.
_MARK = re.compile(
    r"(?P<xml>(?:<tool_call>\s*+)?<function=)"  # Qwen3-Coder
    r"|(?P<json><tool_call>|<\|python_tag\|>)"  # Hermes, Qwen, SmolLM2; Llama 3
    r"|(?P<mistral>\[TOOL_CALLS\])"
    r"|(?P<deepseek>(?:<｜tool▁call▁begin｜>\s*+)?function<｜tool▁sep｜>|<｜tool▁call▁begin｜>)"
    r"|(?P<thought></think>)"
)
_GAP = re.compile(r"(?:[\s,;]|```\w*+)*+(?=\{|\[(?!TOOL_CALLS\]))")  # up to the next JSON value
_END = re.compile(r"[\s;]*+(?:```\s*+)?(?=<|\[TOOL_CALLS\]|function<｜tool▁sep｜>|\Z)")
_MISTRAL = re.compile(r"\s*+([\w.:/-]{1,256}+)(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?")
_DEEPSEEK = re.compile(r"\s*+([^\s<`{\[]{1,256}+)(?:<｜tool▁sep｜>)?")
_FUNCTION = re.compile(r"([^<>\n]{1,256}+)>")
_PARAMETER = re.compile(r"\s*+<parameter=([^<>\n]{1,256}+)>")
_TAG = re.compile(r"</parameter>|<parameter=|</function>|<function=|</?tool_call>")
_FUNCTION_END = re.compile(r"\s*+</function>(?:\s*+</tool_call>)?")
_PYTHONIC = re.compile(r"\s*+\[\s*+[^\W\d][\w.]*+\(")
_DEEPEST = 100  # levels of lists and objects in arguments; whoever walks through them may recurse


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def _bare(text: str, at: int) -> Read:
    return _json(text, at) or _pythonic(text, at)


def _json(text: str, at: int) -> Read:
    """Objects one behind another, or lists of them: {"name", "arguments" or "parameters"}."""
    values, end = _values_at(text, at)
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    calls = [call for call in map(_as_call, items) if call]
    return (calls, end) if calls and len(calls) == len(items) and _END.match(text, end) else None


def _mistral(text: str, at: int) -> Read:
    """[{"name", "arguments"}, ...], or since tokenizer v11 name[ARGS]{...}."""
    name = _MISTRAL.match(text, at)
    return _named(text, name) if name else _json(text, at)


def _deepseek(text: str, at: int) -> Read:
    """name, then the arguments as JSON in a code fence; V3.1 puts no fence around them."""
    name = _DEEPSEEK.match(text, at)
    return _named(text, name) if name else None


def _named(text: str, name: re.Match[str]) -> Read:
    """The arguments alone, behind the name."""
    values, end = _values_at(text, name.end())
    call = _as_call({"name": name[1], "arguments": values[0]}) if len(values) == 1 else None
    return ([call], end) if call and _END.match(text, end) else None


def _xml(text: str, at: int) -> Read:
    """name>, then <parameter=city>Paris</parameter> for each argument, then </function>."""
    name = _FUNCTION.match(text, at)
    if name is None:
        return None
    at = name.end()
    arguments: dict[str, Any] = {}
    while parameter := _PARAMETER.match(text, at):
        tag = _TAG.search(text, parameter.end())
        if tag is None or tag[0] != "</parameter>":
            return None
        arguments[parameter[1].strip()] = _parameter(text[parameter.end() : tag.start()])
        at = tag.end()
    end = _FUNCTION_END.match(text, at)
    call = _as_call({"name": name[1].strip(), "arguments": arguments})
    return ([call], end.end()) if call and end else None


def _parameter(text: str) -> Any:
    """JSON where it reads as JSON; a bare word, true and null among them, stays text: types are not written."""
    text = text.removeprefix("\n").removesuffix("\n")
    return text if text.strip().isidentifier() else _decoded(text, otherwise=text)


def _pythonic(text: str, at: int) -> Read:
    """[f(a=1, b="x"), g()]: a list of calls with named literals, parsed and never run."""
    if not _PYTHONIC.match(text, at):
        return None
    # An argument may hold a mark. Behind a thought it may not: many thoughts would be many times the whole text.
    mark = _MARK.search(text, at) if at else None
    end = text.rfind("]", at, mark.start() if mark else len(text)) + 1
    if not _END.match(text, max(end, at)):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # "\d" in a string makes the parser warn
            tree = ast.parse(text[at:end].strip(), mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else []
        calls = [_python_call(element) for element in elements]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deep
        return None
    return (calls, end) if calls else None


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or not all(word.arg for word in node.keywords):
        raise ValueError("not a call with named arguments")
    name = ast.unparse(node.func)
    call = _as_call({"name": name, "arguments": {str(w.arg): _literal(w.value) for w in node.keywords}})
    if call is None or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("not the name of a function")
    return call


def _literal(node: ast.expr | None) -> Any:
    """The JSON value that a Python literal stands for."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            names = [_literal(key) for key in keys]
            if all(isinstance(name, str) for name in names):
                return dict(zip(names, map(_literal, values), strict=True))
    raise ValueError("not a JSON value")


def _values_at(text: str, start: int) -> tuple[list[Any], int]:
    """The JSON objects and lists that stand here, and the place behind the last; none if one is broken."""
    mark = _MARK.search(text, start)
    # Up to the next mark and not to the end of the text: the work stays linear in texts full of marks.
    piece = text[start : mark.start() if mark else None]
    values: list[Any] = []
    at = 0
    while gap := _GAP.match(piece, at):
        try:
            value, at = _JSON.raw_decode(piece, gap.end())
            values.append(value)
        except json.JSONDecodeError as error:
            if mark is None or not error.msg.startswith("Unterminated string"):
                return [], start
            mark = _MARK.search(text, start + 2 * len(piece))  # the mark stood in a string: read on
            piece = text[start : mark.start() if mark else None]
        except (ValueError, RecursionError):  # NaN, a number of 5,000 digits, brackets without end
            return [], start
    return values, start + at


def _as_call(value: Any) -> Call | None:
    """{"name", "arguments"}, also with "parameters" (Llama 3) or inside {"function"} (OpenAI)."""
    value = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _decoded(arguments, otherwise=None)
    if isinstance(name, str) and name.strip() and isinstance(arguments, dict) and _shallow(arguments):
        return Call(name, arguments)
    return None


def _decoded(text: str, otherwise: Any) -> Any:
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return otherwise


def _shallow(value: Any) -> bool:
    layer = [value]
    for _ in range(_DEEPEST + 1):
        layer = [inner for outer in layer if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
    return not layer


_READERS: dict[str, Callable[[str, int], Read]] = {
    "xml": _xml,
    "json": _json,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "thought": _bare,
}
