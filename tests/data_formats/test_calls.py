import json
import re
import time
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posttrain.data_formats.calls import Call, Found, calls_in

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


FORMS = {
    render.__name__: render
    for render in (hermes, smollm2, hermes_with_text_arguments, llama, llama_tagged, mistral, mistral_v11, deepseek,
                   deepseek_bare, deepseek_v31, openai, python_list, bare, fenced, xml)
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


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@untimed
@given(calls=some_calls)
def test_calls_are_read_back_from_every_form(form, calls):
    if form is xml:  # a bare word stays text there, see test_xml_values; a tag cannot be quoted
        calls = [Call(c.name, {k: [v] for k, v in c.arguments.items()}) for c in calls]
        assume(
            not any(re.search("</?(parameter|function|tool_call)", json.dumps(c.arguments)) for c in calls)
        )
    assert calls_in(form(calls)) == Found(tuple(calls), 0)


def test_every_form_of_the_list_was_tried():
    assert len(FORMS) == 15


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
    together = form in (smollm2, mistral, llama_tagged)  # one mark for all
    assert found == Found(() if together else (PARIS,), 1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_thinking_before_the_answer_is_skipped(form):
    draft = "<think>\nMaybe <tool_call>{} or [TOOL_CALLS]x?\n" + hermes([OSLO]) + "\n</think>\n\n"
    assert calls_in(draft + form([PARIS])) == Found((PARIS,), 0)
    assert calls_in("The template opened it.</think>" + form([PARIS])) == Found((PARIS,), 0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tags_inside_an_argument_are_text(form):
    for tag in ("<tool_call>", "</tool_call>", "</think>", "[TOOL_CALLS]", "<function=", "<tool_call>" * 50):
        call = Call("write", {"text": f"use {tag} here", "more": "x"})
        if form is not xml:
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
                                   '{"name": "f", "arguments": {}}<tool_call>'])  # fmt: skip
def test_time_grows_with_the_length_and_not_with_its_square(piece):
    text = piece * (50_000 // len(piece))
    begun = time.process_time()
    for whole in (text, "<tool_call>" + text, '<tool_call>{"name": "' + text, "[f(a=1, b=" + text + ")]"):
        calls_in(whole)
    # 0.2 million characters take a quarter of a second; a square takes far more
    assert time.process_time() - begun < 4
