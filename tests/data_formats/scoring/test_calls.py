import json
import re
import time
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posttrain.data_formats.scoring.calls import Call, Found, calls_in

untimed = settings(deadline=None)
PARIS = Call("weather", {"city": "Paris"})
OSLO = Call("get.time", {"city": "Oslo", "days": [1, 2.5, None], "deep": {"on": True, "say": 'a "b" \n{]'}})

# --- renderers: what each template makes of a list of calls ---------------------------------------------


def as_json(call, key="arguments"):
    return json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False)


def hermes(calls):
    return "\n".join(f"<tool_call>\n{as_json(call)}\n</tool_call>" for call in calls)


def smollm2(calls):
    return "<tool_call>[" + ", ".join(map(as_json, calls)) + "]</tool_call>"


def hermes_with_text_arguments(calls):
    rows = [{"name": call.name, "arguments": json.dumps(call.arguments)} for call in calls]
    return "\n".join(f"<tool_call>\n{json.dumps(row)}\n</tool_call>" for row in rows)


def llama(calls):
    return "; ".join(as_json(call, "parameters") for call in calls)


def llama_tagged(calls):
    return "<|python_tag|>" + llama(calls)


def mistral(calls):
    return "[TOOL_CALLS] [" + ", ".join(map(as_json, calls)) + "]"


def mistral_v11(calls):
    return "".join(f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}" for call in calls)


def deepseek(calls):
    one = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
    body = "\n".join(one.format(call.name, json.dumps(call.arguments)) for call in calls)
    return f"<｜tool▁calls▁begin｜>{body}<｜tool▁calls▁end｜>"


def deepseek_bare(calls):
    one = "function<｜tool▁sep｜>{}\n```json\n{}\n```"
    return "\n".join(one.format(call.name, json.dumps(call.arguments)) for call in calls)


def deepseek_v31(calls):
    one = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    return "".join(one.format(call.name, json.dumps(call.arguments)) for call in calls)


def openai(calls):
    rows = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for number, call in enumerate(calls)
    ]
    return json.dumps(rows, indent=1)


def python_list(calls):
    words = [(call.name, ", ".join(f"{k}={v!r}" for k, v in call.arguments.items())) for call in calls]
    return "[" + ", ".join(f"{name}({inside})" for name, inside in words) + "]"


def bare(calls):
    return "\n".join(map(as_json, calls))


def fenced(calls):
    return f"```json\n{bare(calls)}\n```"


def xml(calls):
    def one(call):
        inside = "".join(
            f"<parameter={k}>\n{json.dumps(v)}\n</parameter>\n" for k, v in call.arguments.items()
        )
        return f"<tool_call>\n<function={call.name}>\n{inside}</function>\n</tool_call>"

    return "\n".join(map(one, calls))


def glm(calls):
    return "\n".join(
        f"<tool_call>{call.name}\n"
        + "".join(
            f"<arg_key>{k}</arg_key>\n<arg_value>{unquoted(v)}</arg_value>\n"
            for k, v in call.arguments.items()
        )
        + "</tool_call>"
        for call in calls
    )


def unquoted(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def muse(calls):
    def one(call):
        inside = "".join(
            f'<atem:parameter name="{k}">{unquoted(v)}</atem:parameter>\n' for k, v in call.arguments.items()
        )
        block = f'<atem:function_calls>\n<atem:invoke name="{call.name}">\n{inside}</atem:invoke>\n</atem:function_calls>'
        return f" to={call.name}<|message|>{block}"

    return "<|eom|><|start|>assistant".join(map(one, calls)) + "<|eot|>"


def gemma(calls, null="null"):
    def written(value):
        if isinstance(value, str):
            return f'<|"|>{value}<|"|>'
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        return null if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    body = "".join(f"<|tool_call>call:{call.name}{written(call.arguments)}<tool_call|>" for call in calls)
    return body + "<|tool_response>"


def gemma_with_none(calls):
    return gemma(calls, null="None")


def lfm(calls):
    escapes = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"})

    def written(value):
        if isinstance(value, str):
            return f"'{value.translate(escapes)}'"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)

    words = [(call.name, ", ".join(f"{k}={written(v)}" for k, v in call.arguments.items())) for call in calls]
    inside = ", ".join(f"{name}({arguments})" for name, arguments in words)
    return f"<|tool_call_start|>[{inside}]<|tool_call_end|><|im_end|>"


def lfm_as_json(calls):
    return f"<|tool_call_start|>[{', '.join(map(as_json, calls))}]<|tool_call_end|>Wait.<|im_end|>"


def gptoss(calls):
    one = "<|start|>assistant to=functions.{}<|channel|>commentary json<|message|>{}<|call|>"
    return "".join(one.format(call.name, json.dumps(call.arguments)) for call in calls)


def gptoss_channel_first(calls):
    one = "<|start|>assistant<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
    return "".join(one.format(call.name, json.dumps(call.arguments)) for call in calls)


FORMS = {
    render.__name__: render
    for render in (hermes, smollm2, hermes_with_text_arguments, llama, llama_tagged, mistral, mistral_v11, deepseek,
                   deepseek_bare, deepseek_v31, openai, python_list, bare, fenced, xml, glm, muse, gemma,
                   gemma_with_none, lfm, lfm_as_json, gptoss, gptoss_channel_first)
}  # fmt: skip

names = st.from_regex(r"[a-eA-E][a-e0-9_]{0,8}(\.[a-e]{1,3})?", fullmatch=True)
keys = st.sampled_from(["city", "days", "unit", "x", "Größe"])
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
some_calls = st.lists(st.builds(Call, names, st.dictionaries(keys, values)), min_size=1, max_size=3)


def reads_as_json(value):
    try:
        return isinstance(value, str) and not isinstance(json.loads(value), str)
    except ValueError:
        return False


def with_plain_keys(value):
    """Objects with a, b, c for keys that are not letters alone."""
    if isinstance(value, list):
        return [with_plain_keys(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    keys = [key if key.isalpha() else "abc"[i] for i, key in enumerate(value)]
    return dict(zip(keys, map(with_plain_keys, value.values()), strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@untimed
@given(calls=some_calls)
def test_calls_are_read_back_from_every_form(form, calls):
    if form is xml:  # a bare word stays text there, see test_xml_values; a tag cannot be quoted
        calls = [Call(c.name, {k: [v] for k, v in c.arguments.items()}) for c in calls]
        assume(
            not any(re.search("</?(parameter|function|tool_call)", json.dumps(c.arguments)) for c in calls)
        )
    if form in (glm, muse):  # text is not quoted there, see test_unquoted_values
        assume(not any(reads_as_json(v) for c in calls for v in c.arguments.values()))
    if form in (gemma, gemma_with_none):  # nor are keys there
        calls = [Call(c.name, with_plain_keys(c.arguments)) for c in calls]
    if form is lfm:  # its template leaves this character alone, and Python reads no text that has it
        assume(not any("\0" in v for c in calls for v in c.arguments.values() if isinstance(v, str)))
    assert calls_in(form(calls)) == Found(tuple(calls), 0)


def test_every_form_of_the_list_was_tried():
    assert len(FORMS) == 23


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_types_come_back_as_they_went(form):
    (call,) = calls_in(form([OSLO])).calls
    assert call == OSLO
    assert [type(value) for value in call.arguments["days"]] == [int, float, type(None)]
    assert call.arguments["deep"]["on"] is True


MARKED = {name: form for name, form in FORMS.items()
          if name not in ("llama", "openai", "python_list", "bare", "fenced")}  # fmt: skip


@pytest.mark.parametrize("form", MARKED.values(), ids=MARKED)
def test_a_marked_call_may_follow_prose(form):
    assert calls_in(f"I look that up {{now}}.\n\n{form([PARIS, OSLO])}").calls == (PARIS, OSLO)


@pytest.mark.parametrize("form", MARKED.values(), ids=MARKED)
def test_a_marked_call_that_is_cut_is_broken(form):
    # Cut in the middle of the arguments: "Pa|ris".
    text = form([PARIS])
    assert calls_in(text[: text.index("Paris") + 2]) == Found((), 1)
    # A whole one before it is kept.
    both = form([PARIS, Call("weather", {"city": "Quito"})])
    found = calls_in(both[: both.index("Quito") + 2])
    together = form in (smollm2, mistral, llama_tagged, lfm, lfm_as_json)  # one mark for all
    assert found == Found(() if together else (PARIS,), 1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_thinking_before_the_answer_is_skipped(form):
    draft = "<think>\nMaybe <tool_call>{} or [TOOL_CALLS]x?\n" + hermes([OSLO]) + "\n</think>\n\n"
    assert calls_in(draft + form([PARIS])) == Found((PARIS,), 0)
    assert calls_in("The template opened it.</think>" + form([PARIS])) == Found((PARIS,), 0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tags_inside_an_argument_are_text(form):
    for tag in ("<tool_call>", "</tool_call>", "</think>", "[TOOL_CALLS]", "<function=", "<tool_call>" * 50,
                "<|tool_call>", "<|tool_call_start|>", "<atem:invoke ", "to=self<|message|>", "<channel|>"):  # fmt: skip
        call = Call("write", {"text": f"use {tag} here", "more": "x"})
        if form is not xml and (form is not lfm or tag != "<|tool_call_start|>"):
            assert calls_in(form([call, PARIS])) == Found((call, PARIS), 0), tag
    thought = Call("write", {"text": "</think>"})
    assert calls_in(form([thought])) == Found((thought,), 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello.",
        "In C a block is { ... } and a set is {1, 2}.",
        "[1, 2, 3]",
        "[]",
        "{}",
        '{"name": "Bob", "age": 3}',
        '{"name": "Bob", "arguments": 3}',
        '{"name": "", "arguments": {}}',
        '{"name": 7, "arguments": {}}',
        'Write {"name": "weather", "arguments": {"city": "Paris"}} to call it.',
        '{"name": "weather", "arguments": {"city": "Paris"}} calls it.',
        '[{"name": "weather", "arguments": {}}, {"name": "Bob"}]',
        "[see(1)]",
        "[see(a)]",
        "[see(a=b)]",
        "[see(**a)]",
        "[see(a=1), 2]",
        "[see(a={1: 2})]",
        "[see(a={*b})]",
        "[see(a=__import__('os'))]",
        "[see(a=1)(b=2)]",
        "[f'{x}'.see(a=1)]",
        "[see(a=1)] is how",
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
        '{"name": "f", "arguments": {"x": ' + "[" * 200 + "]" * 200 + "}}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "[f(a=" + "-" * 100_000 + "1)]",
        "[f(a=" + "(" * 1_000 + ")]",
        "[f.g" + ".g" * 50_000 + "(a=1)]",
        "[f(a=1" + "+1" * 50_000 + ")]",
    ],
)
def test_no_call_and_no_attempt(text):
    assert calls_in(text) == Found((), 0)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>weather(Paris)</tool_call>",
        '<tool_call>{"name": "weather"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "Paris"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {}}}</tool_call>',
        "<tool_call>{'name': 'weather', 'arguments': {}}</tool_call>",
        "<|python_tag|>print(1)",
        "[TOOL_CALLS]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS]weather[ARGS]Paris",
        "[TOOL_CALLS]weather[ARGS]{} {}",
        "function<｜tool▁sep｜>weather",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n[1]\n```",
        "<｜tool▁call▁begin｜>",
        "<function=weather>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</function>\n</tool_call>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</tool_call>",
        "<function=>\n</function>",
        "<tool_call>weather",
        "<tool_call>weather\n<arg_key>city</arg_key>\n</tool_call>",
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value>",
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</tool_call>",
        "<tool_call>weather<arg_key>city</arg_key><arg_value>a<arg_key>b</arg_key><arg_value>c</arg_value></tool_call>",
        "<|tool_call>",
        "<|tool_call>weather{}<tool_call|>",
        "<|tool_call>call:weather<tool_call|>",
        "<|tool_call>call:weather[]<tool_call|>",
        "<|tool_call>call:weather{city:Paris}<tool_call|>",
        '<|tool_call>call:weather{"city":"Paris"}<tool_call|>',
        '<|tool_call>call:weather{city:<|"|>Paris}<tool_call|>',
        "<|tool_call>call:weather{days:NaN}<tool_call|>",
        "<|tool_call>call:weather{days:1}}<tool_call|>",
        "<|tool_call>call:weather{days:" + "[" * 200 + "]" * 200 + "}<tool_call|>",
        "<|tool_call>call:weather{days:" + "[" * 100_000,
        "<|tool_call_start|>",
        "<|tool_call_start|>[]<|tool_call_end|>",
        "<|tool_call_start|>weather(city='Paris')<|tool_call_end|>",
        "<|tool_call_start|>[weather('Paris')]<|tool_call_end|>",
        "<|tool_call_start|>[weather(city='it's')]<|tool_call_end|>",
        "<|tool_call_start|>[weather(city='a\nb')]<|tool_call_end|>",
        "<|tool_call_start|>[weather(city=Paris)]<|tool_call_end|>",
        "<atem:function_calls>",
        "<atem:function_calls>\n</atem:function_calls>",
        '<atem:function_calls>\n<atem:invoke name="weather">\n</atem:function_calls>',
        '<atem:invoke name="weather"><atem:parameter name="city">Paris</atem:invoke>',
        "<atem:invoke></atem:invoke>",
        "to=functions.weather",
        " to=functions.weather<|channel|>commentary json<|message|>",
        " to=functions.weather<|channel|>commentary json<|message|>Paris<|call|>",
        " to=functions.weather<|channel|>commentary json<|message|>[1]<|call|>",
        " to=functions.weather<|channel|>commentary json<|message|>{} {}<|call|>",
        "<|start|>assistant to=functions.<|message|>{}<|call|>",
    ],
)
def test_one_broken_attempt(text):
    assert calls_in(text) == Found((), 1)


def test_broken_and_whole_attempts_are_counted_apart():
    text = f"<tool_call>{{oh}}</tool_call>{hermes([PARIS])}<tool_call>{hermes([OSLO])}"
    assert calls_in(text) == Found((PARIS, OSLO), 2)


def test_a_missing_end_tag_and_tokens_behind_do_not_matter():
    assert calls_in(f"<tool_call>\n{as_json(PARIS)}").calls == (PARIS,)
    for behind in ("<|eot_id|>", "</s>", "\n<|im_end|>\n"):
        assert calls_in(as_json(PARIS, "parameters") + behind).calls == (PARIS,)
        assert calls_in(python_list([PARIS]) + behind).calls == (PARIS,)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("Paris", "Paris"),
        ("New York", "New York"),
        ("5", 5),
        ("-2.5", -2.5),
        ("[1, 2]", [1, 2]),
        ('{"a": null}', {"a": None}),
        ('"5"', "5"),
        ("true", "true"),
        ("null", "null"),
        ("NaN", "NaN"),
        ("", ""),
        ("a\n\n  b", "a\n\n  b"),
        ("{not json", "{not json"),
        ("if a < b:\n  print('</p>')", "if a < b:\n  print('</p>')"),
        ("9" * 5000, "9" * 5000),
        ("[" * 2000, "[" * 2000),
    ],
)
def test_xml_values(written, value):
    (call,) = calls_in(f"<function=f><parameter=x>\n{written}\n</parameter></function>").calls
    assert call == Call("f", {"x": value})
    assert type(call.arguments["x"]) is type(value)


UNQUOTED = {
    "glm": "<tool_call>f<arg_key>x</arg_key><arg_value>{}</arg_value></tool_call>",
    "muse": '<atem:invoke name="f"><atem:parameter name="x">{}</atem:parameter></atem:invoke>',
}


@pytest.mark.parametrize("template", UNQUOTED.values(), ids=UNQUOTED)
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("Paris", "Paris"),
        (" New York\n", " New York\n"),
        ("5", 5),
        ("true", True),
        ("null", None),
        ('{"a": null}', {"a": None}),
        ('"5"', '"5"'),
        ("None", "None"),
        ("NaN", "NaN"),
        ("", ""),
        ("a <b> </c> <parameter=", "a <b> </c> <parameter="),
        ("9" * 5000, "9" * 5000),
        ("[" * 2000, "[" * 2000),
    ],
)
def test_unquoted_values(template, written, value):
    (call,) = calls_in(template.format(written)).calls
    assert call == Call("f", {"x": value})
    assert type(call.arguments["x"]) is type(value)


def test_thoughts_of_other_templates_are_skipped():
    draft = hermes([OSLO]) + "<tool_call>?"
    harmony = f"<|channel|>analysis<|message|>{draft} to=functions.f<|end|>{gptoss([PARIS])}"
    assert calls_in(harmony) == Found((PARIS,), 0)
    assert calls_in(harmony.replace("<|end|>", "")) == Found((PARIS,), 0)  # the next message ends it too
    assert calls_in(f"to=self<|message|>{draft}<|eom|><|start|>assistant{muse([PARIS])}") == Found(
        (PARIS,), 0
    )
    assert calls_in(f"<|channel>thought\n{draft}\n<channel|>{gemma([PARIS])}") == Found((PARIS,), 0)
    for cut in "<|channel|>analysis<|message|>", "to=self<|message|>":
        assert calls_in(cut + draft) == Found((), 0)


def test_an_answer_of_gptoss_begins_behind_its_role():
    for text in gptoss([PARIS]), gptoss_channel_first([PARIS]), " " + gptoss([PARIS]):
        assert calls_in(text.replace("<|start|>assistant", "")) == Found((PARIS,), 0)
    assert calls_in("Write to=functions.weather to call it.") == Found((), 0)


def test_prose_may_follow_a_call_that_is_closed():
    for form in (gemma, lfm, glm, muse):
        assert calls_in(form([PARIS]) + " I look [1] and wait.") == Found((PARIS,), 0)


def test_several_muse_functions_share_a_block():
    text = '<atem:function_calls><atem:invoke name="f"></atem:invoke><atem:invoke name="g"></atem:invoke></atem:function_calls>'
    assert calls_in(text) == Found((Call("f", {}), Call("g", {})), 0)


def test_gemma_may_quote_keys_and_put_spaces():
    text = '<|tool_call>call:f{ <|"|>a b<|"|>: 1, c d : { e:True } }<tool_call|>'
    assert calls_in(text) == Found((Call("f", {"a b": 1, "c d": {"e": True}}),), 0)


def test_words_that_python_keeps_name_arguments():
    call = Call("convert", {"from": "from=EUR, 'class=", "to": "\\", "in": [{"from": 'a" if="'}]})
    assert calls_in(lfm([call])) == calls_in(python_list([call])) == Found((call,), 0)


def test_several_xml_functions_share_a_tag():
    text = "<tool_call>\n<function=f>\n</function>\n<function=g>\n<parameter=a>1</parameter>\n</function>\n</tool_call>"
    assert calls_in(text) == Found((Call("f", {}), Call("g", {"a": 1})), 0)


def test_python_lists_take_json_like_literals_only():
    text = "[a.f(x=-1, y=(1, 'b'), z={'k': [None, True]}), g()]"
    assert calls_in(text).calls == (
        Call("a.f", {"x": -1, "y": [1, "b"], "z": {"k": [None, True]}}),
        Call("g", {}),
    )


def test_python_text_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calls_in(r"[grep(pattern='\d')]").calls == (Call("grep", {"pattern": r"\d"}),)


# --- any text at all -------------------------------------------------------------------------------------

PIECES = [
    *("<tool_call>", "</tool_call>", "<function=", "<function=f>", "<parameter=a>", "</parameter>"),
    *("</function>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "```json", "```"),
    *(
        "<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "\\",
        "\\u12",
    ),
    *("{", "}", "[", "]", '"', ":", ",", ";", " ", "\n", "f", "1", "-", "(", ")", "=", "null", "NaN", "\x00"),
    *(
        "<arg_key>",
        "<arg_key>a</arg_key><arg_value>",
        "</arg_value>",
        "<|tool_call>",
        "<|tool_call>call:f{a:",
    ),
    *('<|"|>', "<tool_call|>", "<|tool_call_start|>", "<|tool_call_start|>[f(a=", "<|tool_call_end|>"),
    *("<atem:function_calls>", '<atem:invoke name="f">', '<atem:parameter name="a">', "</atem:parameter>"),
    *(
        "</atem:invoke>",
        "to=functions.f",
        "<|start|>assistant",
        "<|channel|>commentary",
        "<|channel|>analysis",
    ),
    *("<|message|>", "to=self<|message|>", "<|end|>", "<channel|>", "'", "from=", "True"),
    *('{"name": "f", "arguments": ', '{"name": "f", "arguments": {}}', "[f(a=", "\ud800"),
]


@untimed
@given(st.text(st.characters()) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_makes_it_fail(text):
    found = calls_in(text)
    assert 0 <= found.broken <= len(text)
    for call in found.calls:
        assert call.name
        assert isinstance(call.arguments, dict)
        json.dumps(call.arguments, allow_nan=True)


@pytest.mark.parametrize("piece", [*PIECES, '<tool_call>["', '<tool_call>{"a": "', "</think>[f(", "<function=f><parameter=a>",
                                   '{"a": 1};', "[TOOL_CALLS]f[ARGS]{", "[TOOL_CALLS] [{", "</think>{", "[f(a=1),",
                                   '{"name": "f", "arguments": {}}<tool_call>', '<|tool_call>call:f{a:<|"|>',
                                   '<|tool_call>call:f{a:<|"|><|"|>,b:', "<tool_call>f<arg_key>a</arg_key><arg_value>",
                                   "<tool_call>f<arg_key>a</arg_key><arg_value></arg_value>", "<|tool_call_start|>[f(a='",
                                   "<|tool_call_start|>[f(a=[", '<atem:invoke name="f"><atem:parameter name="a">',
                                   "<|start|>assistant to=functions.f<|message|>{", "<|channel|>analysis<|message|>",
                                   "<channel|>[f(", '\\"'])  # fmt: skip
def test_time_grows_with_the_length_and_not_with_its_square(piece):
    text = piece * (50_000 // len(piece))
    begun = time.process_time()
    for whole in (text, "<tool_call>" + text, '<tool_call>{"name": "' + text, "[f(a=1, b=" + text + ")]"):
        calls_in(whole)
    # 0.2 million characters take a quarter of a second; a square takes far more
    assert time.process_time() - begun < 4
