"""Templates that only write their contents down are told apart from those that look at them."""

from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from posttrain.data_formats import Message
from posttrain.data_formats.rendering.purity import only_writes
from posttrain.data_formats.rendering.render import ChatTemplate
from tests.data_formats.chat_templates import CHATML, LLAMA3, MISTRAL, NO_STOP, SMOLLM2, THINKING

PARSER = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
LOOP = "{% for m in messages %}<BODY>{% endfor %}"


def writes(template: str) -> bool:
    return only_writes(PARSER.parse(template))


@pytest.mark.parametrize("template", [CHATML, SMOLLM2, LLAMA3, MISTRAL, NO_STOP, THINKING])
def test_the_usual_templates_only_write(template: str) -> None:
    assert writes(template)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ '<' + m.role + '>' + m['content'].strip() ~ '\\n' }}",
        "{% if m.content is string %}{{ m.content }}{% endif %}",
        "{% set c = m.content %}{{ c }}",
        "{% set c = '' %}{% if m.role == 'user' %}{% set c = m.content %}{% endif %}{{ c }}",
        "{% if m.content %}{{ m.content }}{% endif %}",
        "{% if loop.nextitem.role == 'user' %}{{ m.content }}{% endif %}",
        "{% if messages[loop.index0 - 1].role == 'user' %}{{ m.content }}{% endif %}",
        "{% for t in m.tool_calls %}{{ t.name }}{% endfor %}{{ m.content }}",
        "{% if messages | length > 3 %}{{ m.content }}{% endif %}",
        "{% if m.role == 'alien' %}{{ raise_exception('no ' + m.role) }}{% endif %}",
    ],
)
def test_writing_and_looking_at_roles_is_pure(body: str) -> None:
    assert writes(LOOP.replace("<BODY>", body))


@pytest.mark.parametrize(
    "body",
    [
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% endif %}",
        "{% if m.content == 'a' %}b{% endif %}",
        "{% if m.content.startswith('x') %}b{% endif %}",
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
        "{{ m.content[:5] }}",
        "{{ m.content | length }}",
        "{{ m | tojson }}",
        "{{ m.items() }}",
        "{{ messages }}",
        "{% set c = m.content %}{% if c == 'x' %}y{% endif %}",
        "{% set ns = namespace(c='') %}{% set ns.c = m.content %}{{ ns.c | length }}",
        "{% for letter in m.content %}{{ letter }}{% endfor %}",
        "{{ strftime_now(m.content) }}",
        "{% if not m.content.strip() == '' %}a{% endif %}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(m.content) }}",
        "{{ [m.content] | join }}",
        "{{ 'a' if m.content > 'b' else 'c' }}",
        "{{ m[m.content] }}",
        "{{ m.content * 2 }}",
        "{{ m.get('content') }}",
    ],
)
def test_looking_at_a_content_is_not(body: str) -> None:
    assert not writes(LOOP.replace("<BODY>", body))


def test_of_trls_templates_those_that_only_write_are_known() -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    found = {}
    for file in (files("trl") / "chat_templates").iterdir():
        if file.name.endswith(".jinja") and "_training" not in file.name:
            text = file.read_text()
            found[file.name.removesuffix(".jinja")] = only_writes(
                _compile_jinja_template(text).environment.parse(text)
            )
    assert len(found) > 30
    pure = {name for name, is_pure in found.items() if is_pure}
    assert pure == {"gemma", "llama3", "phi3", "qwen2_5"}


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(text, min_size=2, max_size=6), template=st.sampled_from([CHATML, SMOLLM2, LLAMA3]))
def test_what_is_put_together_is_what_the_template_writes(
    make_tokenizer: Any, contents: list[str], template: str
) -> None:
    contents = contents[: len(contents) // 2 * 2]
    tokenizer = make_tokenizer(template, eos="<|eot_id|>" if template == LLAMA3 else "<|im_end|>")
    ability = ChatTemplate.of(tokenizer).ability
    turns = [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]  # type: ignore[arg-type]
    written = ability.written_plainly(turns)
    assert written is not None and ability._only_writes
    plain = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert written[0] == tokenizer.apply_chat_template(plain, tokenize=False)


def test_only_one_dialogue_of_the_same_roles_is_rendered(
    make_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ability = ChatTemplate.of(make_tokenizer(CHATML)).ability
    ability.written_plainly((Message("user", "a"), Message("assistant", "b")))
    renders: list[int] = []
    monkeypatch.setattr(
        type(ability), "_rendered", lambda self, messages: renders.append(1) or "", raising=True
    )
    for i in range(5):
        assert ability.written_plainly((Message("user", f"{i}"), Message("assistant", "b")))
    assert not renders
    assert (
        ability.written_plainly((Message("system", "s"), Message("user", "a"), Message("assistant", "b")))
        is None
    )
    assert renders == [1]  # roles that were not seen before, and the render is not what was put together
