"""Chat templates come with models, from strangers: they reach nothing, and they end."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats.examples import Message
from posttrain.data_formats.rendering import time_limit
from posttrain.data_formats.rendering.render import ChatTemplate, render
from posttrain.errors import DataError, ModelError
from posttrain.pipeline import template_trial
from posttrain.pipeline.base_models import load_tokenizer
from tests.data_formats.chat_templates import CHATML, trl_names, trl_template

ASKED = [Message("user", "Hi"), Message("assistant", "Yes")]
CANARY = "canary-0123456789"


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    """Each test gives it a template of its own."""
    return load_tokenizer(tiny_folder)


INJECTIONS = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m.__code__.co_filename }}",
    "globals of a function": "{{ raise_exception.__globals__['__builtins__']['open']('FILE').read() }}",
    "globals of strftime_now": "{{ strftime_now.__globals__['datetime'].__module__ }}{{ strftime_now.__code__ }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "cycler": "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "joiner": "{{ joiner.__init__.__globals__.os.environ }}",
    "namespace": "{{ namespace.__init__.__globals__.os.environ }}",
    "the template itself": "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch MARKER') }}",
    "the context": "{{ self._TemplateReference__context.environment.globals }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "attr through format": "{{ ''|attr('format')('{0.__class__.__init__.__globals__}') }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
    "format behind a name": "{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}",
    "a subscript": "{{ ''['__class__']['__mro__'] }}",
    "map": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "a generator": "{% set g = (messages | map('upper')) %}{{ g.gi_frame.f_globals }}",
    "an include": "{% include 'FILE' %}",
    "an import": "{% import 'FILE' as x %}{{ x }}",
    "a statement": "{% do messages.append(1) %}",
    "a change of the messages": "{% set x = messages.append({'role': 'user', 'content': 'mine'}) %}{{ messages | length }}",
    "a change of a message": "{% set x = messages[0].update({'content': 'mine'}) %}",
    "the config": "{{ config }}{{ request.application.__globals__ }}",
    "a name of the namespace": "{% set ns = namespace(__class__='x') %}{{ ns.__class__.__mro__ }}",
}  # fmt: skip
_SHOWN = (CANARY, "<class 'type'>", "<class 'object'>", "<module", "<function", "root:x:", "/site-packages/")


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_template_reaches_nothing(
    tokenizer: Any, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What it writes is refused, or holds none of what it asked for."""
    monkeypatch.setenv("SOME_SETTING", CANARY)
    (tmp_path / "secret").write_text(CANARY)
    payload = INJECTIONS[name].replace("MARKER", str(marker)).replace("FILE", str(tmp_path / "secret"))
    tokenizer.chat_template = payload + CHATML
    messages = list(ASKED)
    try:
        text = render(tokenizer, messages).text
    except DataError as error:
        text = str(error)
        assert "\n" not in text
    assert not [shown for shown in _SHOWN if shown in text.replace(payload, "")], text
    assert messages == ASKED


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ [][1].x }}", "{{ 'a' + 1 }}", "{{ none.x.y }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
     "{{ messages | nothing }}", "{% for %}", "{{ {}['a'].b }}", "{{ range(10**9) }}",
     "{{ '%d' % 'a' }}", "{{ raise_exception('no\nno') }}", "{{ 10 ** 5000 }}"],
)  # fmt: skip
def test_a_template_that_fails_is_one_sentence(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template + CHATML
    with pytest.raises(DataError) as caught:
        ChatTemplate.of(tokenizer).prompt(ASKED[:1])
    assert "\n" not in str(caught.value)


LOOPS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a loop that calls itself": "{% for x in range(60) recursive %}{% if loop.depth < 60 %}{{ loop(range(60)) }}{% endif %}{% endfor %}",
}
BURSTS = {
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "a text of spaces": "{{ 'a'.center(10 ** 11) }}",
    "a format": "{{ '%099999999999d' % 1 }}",
    "a text that doubles": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list in a list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "a replacement": "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
    "the same as tojson": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "an indent": "{{ ('a\n' * 10 ** 6) | indent(10 ** 6) }}",
}
BOMBS = {**LOOPS, **BURSTS}
AT_ONCE = (("a power", "always"), ("a text that doubles", "with tools"))
CASES = [
    pytest.param(name, when, marks=() if (name, when) in AT_ONCE else pytest.mark.slow)
    for name in BOMBS
    for when in ("always", "with tools")
]


@pytest.mark.parametrize(("name", "when"), CASES)
def test_a_template_that_burns_time_or_memory_is_not_used(
    own_model: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    monkeypatch.setattr(template_trial, "SECONDS", 1)
    monkeypatch.setattr(template_trial, "MEMORY", 200 << 20)
    text = BOMBS[name] if when == "always" else f"{{% if tools %}}{BOMBS[name]}{{% endif %}}"
    (own_model / "chat_template.jinja").write_text(text + CHATML)
    with pytest.raises(
        ModelError, match=r"takes more than 1 s of processor time or 200 MB .* is not used"
    ) as caught:
        load_tokenizer(own_model)
    assert "\n" not in str(caught.value)


def test_what_was_tried_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    for _ in range(2):
        template_trial.try_template.cache_clear()
        template_trial.try_template(CHATML)
        monkeypatch.setattr("subprocess.run", None)  # not a second time
    template_trial.try_template.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", trl_names())
def test_templates_that_people_use_pass_the_trial(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    template_trial.try_template(trl_template(name))


ON_CONTENT = "{% if 'now' in messages[0].content %}" + LOOPS["loops in loops"] + "{% endif %}" + CHATML
LATER = [Message("user", "now"), Message("assistant", "Yes")]


@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_a_template_that_burns_time_later_is_ended(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """One that waits for a certain message passes any trial."""
    monkeypatch.setattr(time_limit, "SECONDS", 1.0)
    tokenizer.chat_template = ON_CONTENT
    found: list[object] = []

    def work() -> None:
        template = ChatTemplate.of(tokenizer)
        for messages in (ASKED, LATER, ASKED):
            try:
                found.append(template.render(messages).text)
            except DataError as error:
                found.append(error)

    if where == "main thread":
        work()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    first, ended, again = found
    assert isinstance(first, str) and first == again
    assert isinstance(ended, DataError) and "to write one dialogue" in str(ended)


def test_the_watch_ends_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many renders that end just when they are late: each is ended inside or not at all."""
    monkeypatch.setattr(time_limit, "_LOOKS", 0.001)
    late = 0
    for number in range(300):
        try:
            with time_limit._WATCH.over(0.0005 * (number % 4)):
                until = time.perf_counter() + 0.001
                while time.perf_counter() < until:
                    pass
        except time_limit.TookTooLong:
            late += 1
        sum(range(100))  # an exception that came later would be here
    assert late > 0
    assert not time_limit._WATCH._until
    assert sys.exc_info() == (None, None, None)
