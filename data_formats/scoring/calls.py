"""The function calls in what a model wrote, whatever chat template it learned them from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..examples import Call as Call
from .call_forms import END, GLM, JSON, MUSE, XML, Read, as_call, read_gemma, read_python, read_tags


@dataclass(frozen=True)
class Found:
    calls: tuple[Call, ...]
    broken: int  # tags and markers that open a call, with nothing readable behind them


def calls_in(text: str) -> Found:
    """Every call in the text, in the order they were written; what was drafted in a thought is none.

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


# What opens a call, named after its reader. DeepSeek writes U+FF5C and U+2581, not | and _.
_MARK = re.compile(
    r"(?P<xml>(?:<tool_call>\s*+)?<function=)"  # Qwen3-Coder
    r"|(?P<tag><tool_call>)"  # Hermes, Qwen, SmolLM2; GLM-4
    r"|(?P<json><\|python_tag\|>)"  # Llama 3
    r"|(?P<mistral>\[TOOL_CALLS\])"
    r"|(?P<deepseek>(?:<｜tool▁call▁begin｜>\s*+)?function<｜tool▁sep｜>|<｜tool▁call▁begin｜>)"
    r"|(?P<gemma><\|tool_call>)"
    r"|(?P<lfm><\|tool_call_start\|>)"
    r"|(?P<muse>(?:<atem:function_calls>\s*+)?<atem:invoke\b|<atem:function_calls>)"
    # gpt-oss; an answer begins behind <|start|>assistant
    r"|(?P<harmony>(?:\A|<\|start\|>assistant|<\|channel\|>\w++)\s*+to=functions\.)"
    r"|(?P<thought></think>|<channel\|>)"  # of Gemma is the second
    r"|(?P<aside><\|channel\|>analysis<\|message\|>|to=self<\|message\|>)"  # thoughts of gpt-oss and Muse
)
_GAP = re.compile(r"(?:[\s,;]|```\w*+)*+(?=\{|\[(?!TOOL_CALLS\]))")  # up to the next JSON value
_MISTRAL = re.compile(r"\s*+([\w.:/-]{1,256}+)(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?")
_DEEPSEEK = re.compile(r"\s*+([^\s<`{\[]{1,256}+)(?:<｜tool▁sep｜>)?")
_HARMONY = re.compile(r"([\w.:/-]{1,256}+)(?:\s|\w|<\|(?:channel|constrain)\|>){0,99}+<\|message\|>")
_ASIDE_END = re.compile(r"<\|(?:end|eom|start|channel)\|>")
_LFM_END = re.compile(r"<\|tool_call_(?:end|start)\|>")


def _bare(text: str, at: int) -> Read:
    # An argument may hold a mark. Behind a thought it may not: many thoughts would be many times the whole text.
    mark = _MARK.search(text, at) if at else None
    return _json(text, at) or read_python(text, at, stop=mark.start() if mark else len(text))


def _json(text: str, at: int) -> Read:
    """Objects one behind another, or lists of them: {"name", "arguments" or "parameters"}."""
    values, end = _values_at(text, at)
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    calls = [call for call in map(as_call, items) if call]
    return (calls, end) if calls and len(calls) == len(items) and END.match(text, end) else None


def _tag(text: str, at: int) -> Read:
    return _json(text, at) or read_tags(GLM, text, at)


def _mistral(text: str, at: int) -> Read:
    """[{"name", "arguments"}, ...], or since tokenizer v11 name[ARGS]{...}."""
    name = _MISTRAL.match(text, at)
    return _named(text, name) if name else _json(text, at)


def _deepseek(text: str, at: int) -> Read:
    """name, then the arguments as JSON in a code fence; V3.1 puts no fence around them."""
    name = _DEEPSEEK.match(text, at)
    return _named(text, name) if name else None


def _harmony(text: str, at: int) -> Read:
    """name<|channel|>commentary json<|message|>{...}; the models themselves name the channel before the function."""
    name = _HARMONY.match(text, at)
    return _named(text, name) if name else None


def _lfm(text: str, at: int) -> Read:
    """[f(a=1), g()]<|tool_call_end|>, with prose behind it; JSON if the system prompt asks for that."""
    return _json(text, at) or read_python(text, at, stop=_first(_LFM_END, text, at))


def _aside(text: str, at: int) -> Read:
    """A thought that is a message of its own: no calls, up to where it ends."""
    return [], _first(_ASIDE_END, text, at)


def _first(end: re.Pattern[str], text: str, at: int) -> int:
    found = end.search(text, at)
    return found.start() if found else len(text)


def _named(text: str, name: re.Match[str]) -> Read:
    """The arguments alone, behind the name."""
    values, end = _values_at(text, name.end())
    call = as_call({"name": name[1], "arguments": values[0]}) if len(values) == 1 else None
    return ([call], end) if call and END.match(text, end) else None


def _values_at(text: str, start: int) -> tuple[list[Any], int]:
    """The JSON objects and lists that stand here, and the place behind the last; none if one is broken."""
    mark = _MARK.search(text, start)
    # Up to the next mark and not to the end of the text: the work stays linear in texts full of marks.
    piece = text[start : mark.start() if mark else None]
    values: list[Any] = []
    at = 0
    while gap := _GAP.match(piece, at):
        try:
            value, at = JSON.raw_decode(piece, gap.end())
            values.append(value)
        except json.JSONDecodeError as error:
            if mark is None or not error.msg.startswith("Unterminated string"):
                return [], start
            mark = _MARK.search(text, start + 2 * len(piece))  # the mark stood in a string: read on
            piece = text[start : mark.start() if mark else None]
        except (ValueError, RecursionError):  # NaN, a number of 5,000 digits, brackets without end
            return [], start
    return values, start + at


_READERS: dict[str, Callable[[str, int], Read]] = {
    "xml": partial(read_tags, XML),
    "tag": _tag,
    "json": _json,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "gemma": read_gemma,
    "lfm": _lfm,
    "muse": partial(read_tags, MUSE),
    "harmony": _harmony,
    "thought": _bare,
    "aside": _aside,
}
