"""Calls in notations that are not JSON: in tags, Gemma's and Python's; and which value is a call at all."""

from __future__ import annotations

import ast
import json
import keyword
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..examples import Call

Read = tuple[list[Call], int] | None  # the calls and the place behind them; None: not readable

# What may stand behind a call that has no closing tag of its own.
END = re.compile(r"[\s;]*+(?:```\s*+)?(?=<|\[TOOL_CALLS\]|function<｜tool▁sep｜>|\Z)")
_DEEPEST = 100  # levels of lists and objects in arguments; whoever walks through them may recurse


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


JSON = json.JSONDecoder(parse_constant=_refuse)


def decoded(text: str, otherwise: Any) -> Any:
    try:
        return JSON.decode(text)
    except (ValueError, RecursionError):
        return otherwise


def as_call(value: Any) -> Call | None:
    """{"name", "arguments"}, also with "parameters" (Llama 3) or inside {"function"} (OpenAI)."""
    value = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = decoded(arguments, otherwise=None)
    if isinstance(name, str) and name.strip() and isinstance(arguments, dict) and _shallow(arguments):
        return Call(name, arguments)
    return None


def _shallow(value: Any) -> bool:
    layer = [value]
    for _ in range(_DEEPEST + 1):
        layer = [inner for outer in layer if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
    return not layer


# --- tags: a name, then each argument between tags ---------------------------------------------------------


@dataclass(frozen=True)
class Tags:
    name: re.Pattern[str]
    key: re.Pattern[str]  # with the tags up to the value
    close: str  # stands behind a value
    # Or one of these, and the call is broken. The tag before a value must be among them: no stretch of text is then
    # searched for more than two calls, and the work stays linear.
    others: re.Pattern[str]
    end: re.Pattern[str]
    value: Callable[[str], Any]


def read_tags(tags: Tags, text: str, at: int) -> Read:
    name = tags.name.match(text, at)
    if name is None:
        return None
    at = name.end()
    arguments: dict[str, Any] = {}
    while key := tags.key.match(text, at):
        tag = tags.others.search(text, key.end())
        if tag is None or tag[0] != tags.close:
            return None
        arguments[key[1].strip()] = tags.value(text[key.end() : tag.start()])
        at = tag.end()
    end = tags.end.match(text, at)
    call = as_call({"name": name[1].strip(), "arguments": arguments})
    return ([call], end.end()) if call and end else None


def _padded(text: str) -> Any:
    """JSON where it reads as JSON; a bare word, true and null among them, stays text: types are not written."""
    text = text.removeprefix("\n").removesuffix("\n")
    return text if text.strip().isidentifier() else decoded(text, otherwise=text)


def _unquoted(text: str) -> Any:
    """Text as it stands, everything else as JSON: so text that reads as JSON, like 5 or true, is taken for that."""
    value = decoded(text, otherwise=text)
    return text if isinstance(value, str) else value


# <function=weather><parameter=city>Paris</parameter></function>, behind <function=
XML = Tags(
    name=re.compile(r"([^<>\n]{1,256}+)>"),
    key=re.compile(r"\s*+<parameter=([^<>\n]{1,256}+)>"),
    close="</parameter>",
    others=re.compile(r"</parameter>|<parameter=|</function>|<function=|</?tool_call>"),
    end=re.compile(r"\s*+</function>(?:\s*+</tool_call>)?"),
    value=_padded,
)
# <tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>, behind <tool_call>
GLM = Tags(
    name=re.compile(r"\s*+([\w.:/-]{1,256}+)\s*+(?=<arg_key>|</tool_call>)"),
    key=re.compile(r"\s*+<arg_key>([^<\n]{1,256}+)</arg_key>\s*+<arg_value>"),
    close="</arg_value>",
    others=re.compile(r"</?arg_value>|<arg_key>"),
    end=re.compile(r"\s*+</tool_call>"),
    value=_unquoted,
)
# <atem:invoke name="weather"><atem:parameter name="city">Paris</atem:parameter></atem:invoke>, behind <atem:invoke
MUSE = Tags(
    name=re.compile(r'\s++name="([^"\n]{1,256}+)"\s*+>'),
    key=re.compile(r'\s*+<atem:parameter name="([^"\n]{1,256}+)">'),
    close="</atem:parameter>",
    others=re.compile(r"</atem:parameter>|<atem:parameter "),
    end=re.compile(r"\s*+</atem:invoke>(?:\s*+</atem:function_calls>)?"),
    value=_unquoted,
)

# --- Gemma 4: JSON with bare keys and quotation marks of its own -------------------------------------------

# Outside of its strings stands neither < nor ", so what one mark opens ends at the next.
_GEMMA = re.compile(
    r'\s*+call:([\w.:/-]{1,256}+)((?:[^<"]++|<\|"\|>.*?<\|"\|>)*+)(?:<tool_call\|>|(?=<|\Z))', re.DOTALL
)
_GEMMA_WORD = re.compile(
    r'<\|"\|>(?P<text>.*?)<\|"\|>|(?P<word>[^\s:,{}\[\]<][^:,{}\[\]<]*+)(?P<colon>:?)', re.DOTALL
)
_PYTHON_WORDS = {"None": "null", "True": "true", "False": "false"}  # the first templates write None


def read_gemma(text: str, at: int) -> Read:
    """call:weather{city:<|"|>Paris<|"|>,days:[1,null]}<tool_call|>."""
    found = _GEMMA.match(text, at)
    if found is None:
        return None
    arguments = decoded(_GEMMA_WORD.sub(_gemma_as_json, found[2]), otherwise=None)
    call = as_call({"name": found[1], "arguments": arguments})
    return ([call], found.end()) if call else None


def _gemma_as_json(found: re.Match[str]) -> str:
    if found["text"] is not None:
        return json.dumps(found["text"])
    word = found["word"].strip()
    return json.dumps(word) + ":" if found["colon"] else _PYTHON_WORDS.get(word, word)


# --- Python: a list of calls with named literals -----------------------------------------------------------

_PYTHONIC = re.compile(r"\s*+\[\s*+[^\W\d][\w.]*+\(")
# What Python keeps for itself may be the name of an argument: convert(from="USD"). Strings are left alone.
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|' + r"'(?:[^'\\]++|\\.)*+(?:'|\Z)"
_RESERVED = re.compile(rf"(?:{_STRING})|\b({'|'.join(keyword.kwlist)})(?=\s*+=(?!=))", re.DOTALL)
_FREED = "_as_argument"
_JSON_WORDS = {"null": None, "true": True, "false": False}  # LFM2 writes lists and objects as JSON


def read_python(text: str, at: int, stop: int) -> Read:
    """[f(a=1, b="x"), g()], up to the last bracket before `stop`, parsed and never run."""
    if not _PYTHONIC.match(text, at):
        return None
    end = text.rfind("]", at, stop) + 1
    if not END.match(text, max(end, at)):
        return None
    source = _RESERVED.sub(lambda word: word[0] + _FREED if word[1] else word[0], text[at:end].strip())
    try:
        with warnings.catch_warnings(action="ignore"):  # "\d" in a string makes the parser warn
            tree = ast.parse(source, mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else []
        calls = [_python_call(element) for element in elements]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deep
        return None
    return (calls, end) if calls else None


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or not all(word.arg for word in node.keywords):
        raise ValueError("not a call with named arguments")
    name = ast.unparse(node.func)
    arguments = {str(word.arg).removesuffix(_FREED): _literal(word.value) for word in node.keywords}
    call = as_call({"name": name, "arguments": arguments})
    if call is None or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError("not the name of a function")
    return call


def _literal(node: ast.expr | None) -> Any:
    """The JSON value that a Python literal stands for."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=word) if word in _JSON_WORDS:
            return _JSON_WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            names = [_literal(key) for key in keys]
            if all(isinstance(name, str) for name in names):
                return dict(zip(names, map(_literal, values), strict=True))
    raise ValueError("not a JSON value")
