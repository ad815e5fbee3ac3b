"""How each chat template takes tools and calls, and that the arguments of a call can be read back from its text."""

import json

import pytest

from posttrain.data_formats.examples import Call
from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.data_formats.scoring.calls import Found, calls_in
from posttrain.errors import DataError
from tests.data_formats.chat_templates import (
    ADDED,
    CHATML,
    DEEPSEEK,
    MISTRAL_TOOLS,
    NEMOTRON,
    TEXT_ARGUMENTS,
    VISION,
    trl_names,
)
from tests.data_formats.dialogues import CALLS, OSLO, PARIS, assistant, trained, user

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
# They write 'it's', so nobody could tell where a text with a quote, a line's end or a backslash ends.
UNESCAPED = {"lfm2_2_5", "lfm2_2_5_v2"}
# GLM and Muse write a text like 5 or true as they write the number or the word; no such text is among these.
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


def read_back(text):
    found = calls_in(text)
    (call,) = found.calls
    assert not found.broken
    return call.name, call.arguments


def call_text(tokenizer, arguments, reasoning=""):
    (texts,) = trained(
        tokenizer, (user("W?"), assistant("", Call("weather", arguments), reasoning=reasoning))
    )
    return texts[0].partition("</think>")[2] if reasoning else texts[0]


@pytest.mark.parametrize("name", sorted((OWN | ADDED) - {*DEEPSEEK}))
def test_arguments_can_be_read_back(trl_tokenizer, name):
    tokenizer, given = trl_tokenizer(name), dict(ARGUMENTS)
    if name in UNESCAPED:
        given = {key: value for key, value in given.items() if key not in ("quotes", "lines", "back")}
    expected = dict(given)
    if name in XML:
        expected["null"], expected["flag"] = AS_WORDS[name]
    thought = "Hm" if name in NEMOTRON else ""  # else it cannot be proven
    found, arguments = read_back(call_text(tokenizer, given, thought))
    assert found == "weather"
    assert json.dumps(arguments, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert read_back(call_text(tokenizer, {}, thought)) == ("weather", {})


@pytest.mark.parametrize("name", sorted(GEMMA4 | LFM | {"glm4moe", "muse_glimmer"}))
def test_every_call_of_a_turn_is_read(trl_tokenizer, name):
    (said, *_), *_ = trained(trl_tokenizer(name), CALLS)
    assert calls_in(said) == Found((PARIS, OSLO), 0)


# The second Gemma leaves out what is thought before a call.
@pytest.mark.parametrize("name", sorted(GEMMA4 - {"gemma4_v2"} | LFM | {"glm4moe", "gptoss", "muse_glimmer"}))
def test_a_call_in_a_thought_is_none(trl_tokenizer, name):
    draft = (
        'Maybe <tool_call>? {"name": "time", "arguments": {}} <tool_call>{"name": "time", "arguments": {}}'
    )
    ((said,),) = trained(trl_tokenizer(name), (user("W?"), assistant("", PARIS, reasoning=draft)))
    assert draft in said
    assert calls_in(said) == Found((PARIS,), 0)


@pytest.mark.parametrize(
    "template", [CHATML, TEXT_ARGUMENTS, MISTRAL_TOOLS], ids=["chatml", "text", "mistral"]
)
def test_arguments_of_other_templates_can_be_read_back(make_tokenizer, template):
    tokenizer = make_tokenizer(template, eos="</s>")
    for arguments in ARGUMENTS, {}:
        assert read_back(call_text(tokenizer, arguments).removesuffix("</s>")) == ("weather", arguments)
