"""How each chat template takes tools and calls, and that the arguments of a call can be read back from its text."""

import ast
import json
import re

import pytest
from chat_templates import ADDED, CHATML, DEEPSEEK, MISTRAL_TOOLS, NEMOTRON, TEXT_ARGUMENTS, VISION, trl_names
from dialogues import assistant, trained, user

from posttrain.data_formats.calls import calls_in
from posttrain.data_formats.examples import Call
from posttrain.data_formats.render import ChatTemplate
from posttrain.errors import DataError

GEMMA4 = {"diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"}
LFM = {"lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2"}
LLAMA31 = {"llama3_1", "llama3_2"}
XML = {"qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8", *NEMOTRON}
HERMES_LIKE = {"qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"}
OWN = GEMMA4 | LFM | LLAMA31 | XML | HERMES_LIKE | {"glm4moe", "gptoss", "muse_glimmer"}
BASES = [name for name in trl_names() if not name.endswith("_training")]
# In the text of these templates a value of XML's kind has no type: null and false are words.
AS_WORDS = {name: ("None", "False") for name in XML} | dict.fromkeys(
    ("qwen3_6", "qwen3_8"), ("null", "false")
)
ARGUMENTS = {
    "quotes": 'say "hi", it\'s', "lines": "a\n  b\n\nc", "unicode": "Zürich 你好 🙂 e\u0301 <&>", "back": "C:\\new",
    "jinja": "{{ 1 + 1 }}{% raw %}", "nested": {"a": [1, {"b": None}], "c": True}, "int": 3, "float": -2.5,
    "null": None, "flag": False, "empty": {}, "list": [],
}  # fmt: skip


def test_how_each_template_takes_calls(trl_tokenizer):
    assert len(BASES) == 41 and set(BASES) == OWN | ADDED | VISION
    abilities = {name: ChatTemplate.of(trl_tokenizer(name)).ability for name in BASES}
    forms = {name: abilities[name].tools for name in BASES if name not in VISION}
    assert {name for name, form in forms.items() if form.added} == ADDED
    assert {form.arguments for form in forms.values()} == {"object"}  # none of TRL's has to be given text
    assert {name for name, form in forms.items() if form.says == "nowhere"} == {*LLAMA31, "muse_glimmer"}
    assert {name for name, form in forms.items() if form.says == "behind"} == GEMMA4
    assert {name for name, form in forms.items() if not form.several} == {*LLAMA31, "gptoss"}
    for name in VISION:
        with pytest.raises(DataError, match="can write neither tools nor what stands for them"):
            _ = abilities[name].tools


def test_forms_of_other_templates(make_tokenizer, chatml, mistral, smollm2):
    def form(tokenizer):
        found = ChatTemplate.of(tokenizer).ability.tools
        return found.arguments, found.added, found.says, found.several

    assert form(chatml) == form(smollm2) == ("object", True, "before", True)
    assert form(mistral) == ("object", False, "nowhere", True)
    assert form(make_tokenizer(TEXT_ARGUMENTS)) == ("text", False, "before", True)
    # {'city': 'Paris'} is how Python prints an object, and no JSON.
    printing = TEXT_ARGUMENTS.replace("+ call.function.arguments +", "~ call.function.arguments ~")
    assert form(make_tokenizer(printing)) == ("text", False, "before", True)


def read_gemma(text):
    def as_json(found):
        string, key = found.groups()
        return json.dumps(string) if string is not None else f'"{key}":' if key else "null"

    name, body = re.fullmatch(r"<\|tool_call>call:(\w+)(.*)<tool_call\|>(?:<\|tool_response>|<turn\|>)", text, re.DOTALL).groups()  # fmt: skip
    return name, json.loads(re.sub(r'<\|"\|>(.*?)<\|"\|>|(\w+):|None', as_json, body, flags=re.DOTALL))


def read_tags(name, pairs):
    def value(text):
        try:
            return json.loads(text)
        except ValueError:
            return text

    return name, {key: value(text) for key, text in pairs}


def read_glm(text):
    name = re.search(r"<tool_call>(.*)\n", text)[1]
    return read_tags(
        name, re.findall(r"<arg_key>(.*?)</arg_key>\n<arg_value>(.*?)</arg_value>", text, re.DOTALL)
    )


def read_muse(text):
    name = re.search(r'<atem:invoke name="(.*)">', text)[1]
    return read_tags(
        name, re.findall(r'<atem:parameter name="(\w+)">(.*?)</atem:parameter>', text, re.DOTALL)
    )


def read_gptoss(text):
    name, body = re.fullmatch(r" to=functions\.(\w+)<\|channel\|>commentary json<\|message\|>(.*)<\|call\|>", text).groups()  # fmt: skip
    return name, json.loads(body)


def read_lfm(text):
    """Python's literals, with JSON's words inside of objects."""

    class Words(ast.NodeTransformer):
        def visit_Name(self, node):
            return ast.Constant(json.loads(node.id)) if node.id in ("null", "true", "false") else node

    body = re.search(r"<\|tool_call_start\|>(.*)<\|tool_call_end\|>", text, re.DOTALL)[1]
    (call,) = Words().visit(ast.parse(body, mode="eval").body).elts
    return call.func.id, {word.arg: ast.literal_eval(word.value) for word in call.keywords}


def read_by_library(text):
    (call,) = calls_in(text).calls
    return call.name, call.arguments


READERS = (
    dict.fromkeys(GEMMA4, read_gemma)
    | dict.fromkeys(LFM, read_lfm)
    | {"glm4moe": read_glm, "gptoss": read_gptoss, "muse_glimmer": read_muse}
)


def call_text(tokenizer, arguments, reasoning=""):
    (texts,) = trained(
        tokenizer, (user("W?"), assistant("", Call("weather", arguments), reasoning=reasoning))
    )
    return texts[0].partition("</think>")[2] if reasoning else texts[0]


@pytest.mark.parametrize("name", sorted((OWN | ADDED) - {*DEEPSEEK}))
def test_arguments_can_be_read_back(trl_tokenizer, name):
    tokenizer, given = trl_tokenizer(name), dict(ARGUMENTS)
    if name in (
        "lfm2_2_5",
        "lfm2_2_5_v2",
    ):  # they escape nothing, so nobody could tell where such a text ends
        given = {key: value for key, value in given.items() if key not in ("quotes", "lines", "back")}
    expected = dict(given)
    if name in XML:
        expected["null"], expected["flag"] = AS_WORDS[name]
    read = READERS.get(name, read_by_library)
    thought = "Hm" if name in NEMOTRON else ""  # else it cannot be proven
    found, arguments = read(call_text(tokenizer, given, thought))
    assert found == "weather"
    assert json.dumps(arguments, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert read(call_text(tokenizer, {}, thought)) == ("weather", {})


@pytest.mark.parametrize(
    "template", [CHATML, TEXT_ARGUMENTS, MISTRAL_TOOLS], ids=["chatml", "text", "mistral"]
)
def test_arguments_of_other_templates_can_be_read_back(make_tokenizer, template):
    tokenizer = make_tokenizer(template, eos="</s>")
    for arguments in ARGUMENTS, {}:
        assert read_by_library(call_text(tokenizer, arguments).removesuffix("</s>")) == ("weather", arguments)
