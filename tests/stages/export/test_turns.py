"""Chat templates as text around contents, found by rendering, and written for Ollama."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.stages.export.modelfile import modelfile
from posttrain.stages.export.turns import Turns, stop_tokens
from tests.stages.export.made import tokenizer_of

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(template: str, pre: str = "gpt-2", **names: str) -> Any:
    tokenizer = tokenizer_of(pre)
    tokenizer.chat_template = template
    for name, value in names.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_chatml() -> None:
    turns = Turns.of(tokenizer_of("gpt-2"))
    assert turns == Turns(
        opening="",
        injected="",
        around={role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
        answer="<|im_start|>assistant\n",
    )
    assert turns.as_go(writes_opening=True) == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
        "<|im_start|>assistant\n"
    )


def test_a_system_turn_that_the_template_adds_itself_stays() -> None:
    tokenizer = with_template(SMOLLM, bos_token="<|im_start|>")  # as SmolLM2 calls it
    turns = Turns.of(tokenizer)
    assert turns is not None and turns.opening == ""
    assert turns.injected == "<|im_start|>system\nYou are SmolLM<|im_end|>\n"
    go = turns.as_go(writes_opening=True)
    assert go is not None
    assert go.startswith(
        '{{ if .Messages }}{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system\nYou'
    )


def test_llama_3_and_its_bos() -> None:
    tokenizer = tokenizer_of("llama-bpe")
    turns = Turns.of(tokenizer)
    assert turns is not None and turns.opening == "<|begin_of_text|>"
    text = modelfile(tokenizer, turns, stop_tokens_of(tokenizer, turns), "model.gguf")
    assert text is not None
    assert "<|begin_of_text|>" not in text  # the engine adds it: twice would be another prompt
    assert text.startswith("FROM ./model.gguf\nTEMPLATE")
    assert 'PARAMETER stop "<|eot_id|>"' in text and 'PARAMETER stop "<|end_of_text|>"' in text


def stop_tokens_of(tokenizer: Any, turns: Turns | None) -> list[int]:
    class Model:
        generation_config = type("Config", (), {"eos_token_id": None})

        def can_generate(self) -> bool:
            return True

    return stop_tokens(Model(), tokenizer, turns)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }} {% endfor %}",  # no roles: the turns cannot be told apart again
        "{% for m in messages %}[{{ loop.index }}] {{ m.role }}: {{ m.content }}\n{% endfor %}",  # counts turns
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last else m.content[:9] }}</>{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_not_guessed(template: str) -> None:
    tokenizer = with_template(template)
    turns = Turns.of(tokenizer)
    if turns is not None:  # plain texts behind each other are turns, too, if poor ones
        assert turns.render([{"role": "user", "content": "Hi"}]) == tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        return
    assert modelfile(tokenizer, turns, [1], "model.gguf") is None


def test_texts_that_go_would_read_are_refused() -> None:
    turns = Turns("", "{{ x }}", {role: ("", "") for role in ("system", "user", "assistant")}, "")
    assert turns.as_go(writes_opening=True) is None


def test_no_template_at_all() -> None:
    tokenizer = tokenizer_of("gpt-2")
    tokenizer.chat_template = None
    assert Turns.of(tokenizer) is None
    assert stop_tokens_of(tokenizer, None) == [tokenizer.eos_token_id]
