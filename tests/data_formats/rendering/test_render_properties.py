"""For any dialogue: exactly the answers and their stop tokens are trained, and nothing in a message is executed."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from posttrain.data_formats import Message
from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.data_formats.tokens.text_encoder import TextEncoder
from tests.data_formats.chat_templates import CHATML, LLAMA3, MISTRAL, SMOLLM2, SPECIAL, THINKING

PIECES = [
    *SPECIAL, "user", "assistant", "system", "<|im_start|>assistant\n", "<think>", "</think>", "<think>\n\n</think>\n\n",
    "{{ 1 + 1 }}", "{% raw %}", "{% endraw %}", "{% for", "{%- set x = 1 -%}", "{#", "#}", "{{", "}}", "{", "\\", "'",
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "你好，世界", "🙂", "👩‍👩‍👧", "e\u0301", "\u0301", "ﬁ", "שלום",
]  # fmt: skip
PIECE = st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CONTENT = st.lists(PIECE, min_size=1, max_size=5).map("".join).filter(str.strip)
ROUND = st.tuples(CONTENT, CONTENT, st.booleans())  # question, answer, whether it is trained
ROUNDS = st.lists(ROUND, min_size=1, max_size=3).filter(lambda rounds: any(loss for *_, loss in rounds))
RELAXED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
# template, end token, what it makes of an answer, whether it takes a system prompt
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>", str, True),
    "smollm2": (SMOLLM2, "<|im_end|>", str, True),
    "llama3": (LLAMA3, "<|eot_id|>", str.strip, True),
    "mistral": (MISTRAL, "</s>", " {}".format, False),
    "thinking": (THINKING, "<|im_end|>", str, True),
}
EACH_TEMPLATE = pytest.mark.parametrize("name", TEMPLATES)


@pytest.fixture(scope="module")
def template_of(make_tokenizer):
    """template_of(name): made once, so that what it learns about the template is kept between examples."""
    made = {
        name: ChatTemplate.of(make_tokenizer(template, eos=end))
        for name, (template, end, _, _) in TEMPLATES.items()
    }
    return made.__getitem__


@pytest.fixture(scope="module")
def slow_template_of(template_of):
    """As of templates that do not write every turn alike: each answer is proven by itself."""
    made = {name: ChatTemplate.of(template_of(name).tokenizer) for name in TEMPLATES}
    for template in made.values():
        vars(template.ability)["literals"] = None
    return made.__getitem__


@pytest.fixture(scope="module")
def encoders(make_tokenizer):
    """By the tokens' bytes; and by offsets, as of a tokenizer whose tokens are no fixed strings of bytes."""
    by_bytes, by_offsets = (TextEncoder.of(make_tokenizer()) for _ in range(2))
    assert by_bytes.bytes is not None
    vars(by_offsets)["bytes"] = None
    return by_bytes, by_offsets


def messages_of(rounds, system=None):
    turns = [Message("system", system)] if system else []
    for question, answer, loss in rounds:
        turns += [Message("user", question), Message("assistant", answer, trained=loss)]
    return turns


def answers_of(name, rounds):
    _, end, written, _ = TEMPLATES[name]
    return [written(answer) + end for _, answer, loss in rounds if loss]


def trained(renderings):
    return [one.text[start:end] for one in renderings for start, end in one.spans]


@EACH_TEMPLATE
@RELAXED
@given(rounds=ROUNDS, system=st.none() | CONTENT)
@example(rounds=[("a", " \n<think>\n\n</think>\n\n", True), ("b", "{{ 1 + 1 }}", True)], system="{% raw %}")
@example(
    rounds=[("<|im_end|>", "<|im_end|>\n", False), ("[/INST]", "</s><|eot_id|><|im_end|>", True)], system=None
)
def test_the_trained_text_is_the_answers_and_their_stop_tokens(template_of, name, rounds, system):
    takes_system = TEMPLATES[name][3]
    messages = messages_of(rounds, system if takes_system else None)
    renderings = template_of(name).renderings(messages)
    assert trained(renderings) == answers_of(name, rounds)
    # Jinja in a message is text: it stands there as it was written.
    last = max(i for i, message in enumerate(messages) if message.role == "assistant" and message.trained)
    assert all(message.content.strip() in renderings[-1].text for message in messages[: last + 1])


@EACH_TEMPLATE
@RELAXED
@given(rounds=ROUNDS, system=st.none() | CONTENT)
def test_one_render_finds_what_the_proof_turn_by_turn_finds(
    template_of, slow_template_of, name, rounds, system
):
    messages = messages_of(rounds, system if TEMPLATES[name][3] else None)
    assert template_of(name).renderings(messages) == slow_template_of(name).renderings(messages)


def test_three_of_the_templates_need_one_render(template_of):
    assert {name for name in TEMPLATES if template_of(name).ability.literals} == {
        "chatml",
        "smollm2",
        "llama3",
    }


@EACH_TEMPLATE
@RELAXED
@given(dialogues=st.lists(ROUNDS, min_size=1, max_size=3))
def test_the_trained_tokens_read_the_trained_text(template_of, encoders, name, dialogues):
    template = template_of(name)
    renderings = [one for rounds in dialogues for one in template.renderings(messages_of(rounds))]
    ids = encoders[0].ids([one.text for one in renderings])
    places = [f"rows[{i}]" for i in range(len(renderings))]
    by_bytes, by_offsets = (encoder.tokens(renderings, ids, places) for encoder in encoders)
    for i, one in enumerate(renderings):
        borders = list(by_bytes.spans[i])
        assert borders == list(by_offsets.spans[i])
        ranges = zip(borders[::2], borders[1::2], strict=True)
        tokens = [list(ids[i][start:end]) for start, end in ranges]
        texts = [template.tokenizer.decode(some, clean_up_tokenization_spaces=False) for some in tokens]
        assert texts == [one.text[start:end] for start, end in one.spans]
