"""How a chat template writes tools and calls, found by trying; and what is put in front of one that cannot.

The addition is Jinja text, so the same template serves training, evaluation, generation and export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from posttrain.errors import DataError

Turn = Mapping[str, Any]
Turns = Sequence[Turn]
Render = Callable[[str, Turns, Sequence[Any] | None], str]  # (template, turns, tools); raises DataError
ArgumentsForm = Literal["object", "text"]

_ARGUMENTS = {"where": 'a "b"', "count": 2}
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "A tool of the probe.",
        "parameters": {
            "type": "object",
            "properties": {
                "where": {"type": "string", "description": "A place."},
                "count": {"type": "integer", "description": "A number."},
            },
            "required": ["where"],
        },
    },
}
ASKED = {"role": "user", "content": "Hi"}
_RESULT = {"role": "tool", "name": "probe_tool", "tool_call_id": "000000000", "content": "probe result 7"}
_SAID = "probe text 8"


@dataclass(frozen=True)
class ToolForm:
    """The template for dialogues with tools, and the form in which it wants the arguments of a call."""

    template: str
    arguments: ArgumentsForm
    added: bool  # the template has no tool support of its own
    says: Literal["before", "behind", "nowhere"] = "before"  # what an assistant says beside its calls
    several: bool = True  # writes more than the first call of a turn

    def turn_arguments(self, arguments: Mapping[str, Any]) -> Any:
        return dict(arguments) if self.arguments == "object" else json.dumps(arguments, ensure_ascii=False)


def find_form(template: str, render: Render) -> ToolForm:
    """Raises DataError when not even the addition makes the template write calls."""
    for form in ToolForm(template, "object", False), ToolForm(template, "text", False):
        if _writes_calls(form, render):
            return replace(form, says=_where_said(form, render), several=_writes_several(form, render))
    for puts_into in ("system", "user"):
        form = ToolForm(_addition(puts_into) + template, "object", True)
        if _writes_calls(form, render):
            return form
    raise DataError(
        "The chat template can write neither tools nor what stands for them in plain turns; set tokenizer.chat_template to one that can."
    )


def probe_dialogue(
    form: ToolForm, said: str = "", calls: int = 1, where: str = 'a "b"', **more: str
) -> list[Turn]:
    """A question, an answer that calls, and the result of its first call."""
    function = {"name": "probe_tool", "arguments": form.turn_arguments({**_ARGUMENTS, "where": where})}
    listed = [{"id": f"{i:09d}", "type": "function", "function": function} for i in range(calls)]
    return [ASKED, {"role": "assistant", "content": said, "tool_calls": listed, **more}, _RESULT]


def _writes_calls(form: ToolForm, render: Render) -> bool:
    dialogue = probe_dialogue(form)
    text = _written(form, render, [*dialogue, {"role": "assistant", "content": "Done"}])
    declared = _written(form, render, dialogue[:1])
    written = _RESULT["content"] in text and _holds_arguments(text, declared)
    return "probe_tool" in declared and written


def _where_said(form: ToolForm, render: Render) -> Literal["before", "behind", "nowhere"]:
    text = _written(form, render, probe_dialogue(form, _SAID)[:2])
    if _SAID not in text:
        return "nowhere"
    return "before" if text.rindex(_SAID) < text.rindex("probe_tool") else "behind"


def _writes_several(form: ToolForm, render: Render) -> bool:
    one, two = (_written(form, render, probe_dialogue(form, calls=number)[:2]) for number in (1, 2))
    return two.count("probe_tool") > one.count("probe_tool")


def _written(form: ToolForm, render: Render, turns: Turns) -> str:
    """Empty where the template refuses the turns."""
    try:
        return render(form.template, turns, [PROBE_TOOL])
    except DataError:
        return ""


def _holds_arguments(text: str, declared: str) -> bool:
    """As a JSON object, not escaped a second time; or value by value, as XML-like and Python-like calls have them."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, _ = decoder.raw_decode(text, at)
        except ValueError:
            value = None
        if value == _ARGUMENTS or (isinstance(value, dict) and _ARGUMENTS in value.values()):
            return True
        at = text.find("{", at + 1)
    printed = text.count("'where'") > declared.count("'where'")  # Python's way to print an object
    return 'a "b"' in text and not printed


def _addition(puts_into: str) -> str:
    """Hermes' way: tools as JSON in the system prompt, calls and results as JSON and text in tags."""
    first_turn = {
        "system": (
            "{%- if m.role == 'system' and loop.first and tool_ns.said -%}"
            "{%- set tool_ns.turns = tool_ns.turns + [{'role': 'system', 'content': m.content + '\n\n' + tool_ns.said}] -%}"
            "{%- set tool_ns.done = true -%}"
            "{%- elif loop.first and tool_ns.said -%}"
            "{%- set tool_ns.turns = [{'role': 'system', 'content': tool_ns.said}] -%}{%- endif -%}"
        ),
        "user": (
            "{%- if m.role == 'system' -%}"
            "{%- set tool_ns.said = m.content + '\n\n' + tool_ns.said -%}{%- set tool_ns.done = true -%}"
            "{%- elif m.role == 'user' and tool_ns.said -%}"
            "{%- set tool_ns.turns = tool_ns.turns + [{'role': 'user', 'content': tool_ns.said + '\n\n' + m.content}] -%}"
            "{%- set tool_ns.said = '' -%}{%- set tool_ns.done = true -%}{%- endif -%}"
        ),
    }[puts_into]
    return (
        "{%- set tool_ns = namespace(turns=[], said='', results='', content='', done=false) -%}"
        "{%- if tools -%}"
        "{%- set tool_ns.said = 'You can call these tools:\n<tools>' -%}"
        "{%- for tool in tools -%}{%- set tool_ns.said = tool_ns.said + '\n' + (tool | tojson) -%}{%- endfor -%}"
        "{%- set tool_ns.said = tool_ns.said + '\n</tools>\nTo call one, write its name and arguments as JSON in tags, "
        'once for each call:\n<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>\' -%}'
        "{%- endif -%}"
        "{%- for m in messages -%}{%- set tool_ns.done = false -%}" + first_turn + "{%- if tool_ns.done -%}"
        "{%- elif m.role == 'tool' -%}"
        "{%- set tool_ns.results = tool_ns.results + ('\n' if tool_ns.results else '') + '<tool_response>\n' + m.content + '\n</tool_response>' -%}"
        "{%- if loop.last or loop.nextitem.role != 'tool' -%}"
        "{%- set tool_ns.turns = tool_ns.turns + [{'role': 'user', 'content': tool_ns.results}] -%}"
        "{%- set tool_ns.results = '' -%}{%- endif -%}"
        "{%- elif m.tool_calls -%}{%- set tool_ns.content = m.content or '' -%}"
        "{%- for call in m.tool_calls -%}"
        "{%- set tool_ns.content = tool_ns.content + ('\n' if tool_ns.content else '') + '<tool_call>\n{\"name\": ' "
        "+ (call.function.name | tojson) + ', \"arguments\": ' + (call.function.arguments | tojson) + '}\n</tool_call>' -%}"
        "{%- endfor -%}"
        "{%- set tool_ns.turns = tool_ns.turns + [{'role': 'assistant', 'content': tool_ns.content}] -%}"
        "{%- else -%}{%- set tool_ns.turns = tool_ns.turns + [m] -%}{%- endif -%}"
        "{%- endfor -%}"
        "{%- set messages = tool_ns.turns -%}{%- set tools = none -%}{{- '' }}"
    )
