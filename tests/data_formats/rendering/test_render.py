"""Golden spans, counted by hand, for each family of chat template."""

import pytest

from posttrain.data_formats import Message
from posttrain.data_formats.rendering.render import ChatTemplate, NotProven, render
from posttrain.errors import DataError
from tests.data_formats.chat_templates import CHATML, LLAMA3, MISTRAL, NO_STOP, SMOLLM2, THINKING, UNPROVABLE

SYSTEM = Message("system", "be")
ONE = (Message("user", "hi"), Message("assistant", "yo"))
TWO = (*ONE, Message("user", "and"), Message("assistant", "no"))


def trained(rendered):
    return [rendered.text[start:end] for start, end in rendered.spans]


def test_chatml(chatml):
    rendered = render(chatml, TWO)
    # <|im_start|> has 12 characters, <|im_end|> has 10.
    # 12 user\n 17 hi 19 <|im_end|> 29 \n 30 <|im_start|> 42 assistant\n 52 yo 54 <|im_end|> 64 \n 65
    # 77 user\n 82 and 85 <|im_end|> 95 \n 96 <|im_start|> 108 assistant\n 118 no 120 <|im_end|> 130 \n
    assert rendered.spans == ((52, 64), (118, 130))
    assert trained(rendered) == ["yo<|im_end|>", "no<|im_end|>"]
    assert len(rendered.text) == 131 and rendered.text.endswith("<|im_end|>\n")


def test_smollm2_shows_its_default_system_prompt(make_tokenizer):
    tokenizer = make_tokenizer(SMOLLM2)
    # The default turn: <|im_start|> 12, system\n 7, the sentence 43, <|im_end|> 10, \n 1: 73 characters in front.
    assert render(tokenizer, ONE).spans == ((52 + 73, 64 + 73),)
    # system\n 7 + be 2 make it 32.
    assert render(tokenizer, (SYSTEM, *ONE)).spans == ((52 + 32, 64 + 32),)
    template = ChatTemplate.of(tokenizer)
    assert template.injected_system() == "You are a helpful AI assistant named SmolLM"


def test_llama3(make_tokenizer):
    rendered = render(make_tokenizer(LLAMA3, eos="<|eot_id|>"), (ONE[0], Message("assistant", " yo\n")))
    # <|begin_of_text|> 17, <|start_header_id|> 19, user 4, <|end_header_id|> 17, \n\n 2, hi 2, <|eot_id|> 10: 71;
    # 19 + assistant 9 + 17 + 2: the answer starts at 118. The template trims it to "yo".
    assert rendered.spans == ((118, 130),)
    assert trained(rendered) == ["yo<|eot_id|>"]


def test_mistral(make_tokenizer):
    rendered = render(make_tokenizer(MISTRAL, eos="</s>"), TWO)
    # <s> 3 [INST] 9 " hi " 13 [/INST] 20: the answer is " yo" with the space the model has to write, then </s>.
    # 27 [INST] 33 " and " 38 [/INST] 45
    assert rendered.text == "<s>[INST] hi [/INST] yo</s>[INST] and [/INST] no</s>"
    assert rendered.spans == ((20, 27), (45, 52))


def test_a_template_that_refuses_a_role_says_so(make_tokenizer):
    template = ChatTemplate.of(make_tokenizer(MISTRAL, eos="</s>"))
    with pytest.raises(
        DataError, match="refuses a dialogue of system, user, assistant: Only user and assistant"
    ):
        template.render((SYSTEM, *ONE))
    assert template.injected_system() == ""


def test_a_preamble_in_place_of_a_system_prompt_is_shown(make_tokenizer):
    # Vicuna's way: no system turn, but a sentence in front of the dialogue.
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ 'System: ' + messages[0]['content'] + '\n' }}"
        "{% else %}{{ 'A chat between a user and an assistant.\n' }}{% endif %}"
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + ': ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(template, eos="</s>")
    assert ChatTemplate.of(tokenizer).injected_system() == "A chat between a user and an assistant."


@pytest.mark.parametrize("name", ["CHATML", "LLAMA3"])
def test_templates_without_a_default_system_prompt_inject_nothing(make_tokenizer, name):
    template = {"CHATML": CHATML, "LLAMA3": LLAMA3}[name]
    assert ChatTemplate.of(make_tokenizer(template)).injected_system() == ""


def test_a_template_that_rewrites_history_gives_one_rendering_for_each_answer(make_tokenizer):
    template = ChatTemplate.of(make_tokenizer(THINKING))
    with pytest.raises(NotProven, match="<think>"):
        template.render(TWO)
    first, second = template.renderings(TWO)
    # The empty thought is the template's: it stands in the text and is not trained.
    assert first.text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nyo<|im_end|>\n")
    assert trained(first) == ["yo<|im_end|>"]
    assert "<|im_start|>assistant\nyo<|im_end|>" in second.text
    assert trained(second) == ["no<|im_end|>"]


def test_a_thought_that_the_author_wrote_is_trained(make_tokenizer):
    content = "<think>\n\n</think>\n\nyo"
    assert trained(render(make_tokenizer(CHATML), (ONE[0], Message("assistant", content)))) == [
        content + "<|im_end|>"
    ]


def test_a_dialogue_needs_one_render_where_every_turn_is_written_alike(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer(CHATML)
    template = ChatTemplate.of(tokenizer)
    template.render(ONE)  # learns what the template writes around the turns
    original, calls = tokenizer.apply_chat_template, []
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    assert trained(template.render((*TWO * 4,))) == ["yo<|im_end|>", "no<|im_end|>"] * 4
    assert not calls  # rendered by the compiled template itself, once


def test_a_single_answer_of_a_cleverer_template_needs_two_renders(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer(MISTRAL, eos="</s>")
    template = ChatTemplate.of(tokenizer)
    assert template.ability.literals is None  # the space in front of an answer is the model's to write
    template.render(ONE)  # learns how the template ends an answer
    original, calls = tokenizer.apply_chat_template, []
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    history = (Message("user", "a"), Message("assistant", "b", trained=False))
    assert trained(template.render((*history * 4, *ONE))) == [" yo</s>"]
    assert len(calls) == 2


def test_untrained_turns_have_no_span(chatml):
    quiet = Message("assistant", "yo", trained=False)
    assert trained(render(chatml, (ONE[0], quiet, *TWO[2:]))) == ["no<|im_end|>"]
    assert trained(render(chatml, (*ONE, TWO[2], quiet))) == ["yo<|im_end|>"]


@pytest.mark.parametrize(
    "content",
    [
        "a",
        "end",
        "<|im_end|>",
        "yo<|im_end|>",
        "assistant",
        "yo yo",
        "yo \n",
        "<|im_end|>\n<|im_start|>user\nyo",
    ],
)
def test_content_that_looks_like_the_template_does_not_move_the_span(chatml, content):
    rendered = render(chatml, (ONE[0], Message("assistant", content), *TWO[2:]))
    assert trained(rendered) == [content + "<|im_end|>", "no<|im_end|>"]


def test_a_template_without_stop_token_gets_the_end_token(make_tokenizer):
    template = ChatTemplate.of(make_tokenizer(NO_STOP, eos="</s>"))
    (rendered,) = template.renderings(ONE)
    assert (rendered.text, rendered.stop_added) == ("user: hi\nassistant: yo</s>", True)
    assert trained(rendered) == ["yo</s>"]
    # Amid a dialogue the token would be one that the model never sees when asked: two rows.
    first, second = template.renderings(TWO)
    assert first == rendered
    assert second.text == "user: hi\nassistant: yo\nuser: and\nassistant: no</s>"
    assert trained(second) == ["no</s>"]


def test_without_any_end_token_there_is_nothing_to_stop_on(make_tokenizer):
    with pytest.raises(DataError, match=r"has no end token.*set tokenizer\.eos_token"):
        render(make_tokenizer(NO_STOP, eos=None), ONE)


def test_a_prompt_that_the_answer_changes_cannot_be_proven(make_tokenizer):
    template = ChatTemplate.of(make_tokenizer(UNPROVABLE))
    with pytest.raises(DataError) as error:
        template.renderings(ONE)
    assert r"'<think>\n' became 'yo<|im_end|>\n'; use another template" in str(error.value)


def test_a_tokenizer_without_template_is_refused_with_a_remedy(make_tokenizer):
    with pytest.raises(DataError, match=r"no chat template.*start from an instruct model"):
        render(make_tokenizer(None), ONE)


def test_text_in_front_of_the_answer_is_trained_when_the_model_has_to_write_it(make_tokenizer):
    # gpt-oss: the prompt ends before the channel, so the model writes "<|end_header_id|>final" itself.
    template = CHATML.replace(
        "m['role'] + '\n' +",
        "m['role'] + ('<|end_header_id|>final\n' if m['role'] == 'assistant' else '\n') +",
    )
    template = template.replace("assistant\n' }}{% endif %}", "assistant' }}{% endif %}")
    for content in ("a", "final", "yo"):  # "a" and "final" stand in front of themselves
        rendered = render(make_tokenizer(template), (ONE[0], Message("assistant", content)))
        assert trained(rendered) == [f"<|end_header_id|>final\n{content}<|im_end|>"]


def test_the_prompt_is_where_the_answer_starts(chatml):
    rendered = render(chatml, TWO)
    assert ChatTemplate.of(chatml).prompt(TWO[:3]) == rendered.text[: rendered.spans[1][0]]
