"""Text that comes piece by piece is the text that comes at once."""

import random

import pytest

from posttrain.errors import DataError
from posttrain.pipeline.base_models import find_base, shared_tokenizer
from posttrain.serving.dialogue import Speaker, Spoken, certain_part

TEXTS = [
    "The quick brown fox.",
    " leading",
    "日本語と emoji 🦊🦊 e\u0301",
    "a\n\n b\t",
    "def f(x):\n    return x",
    "<|im_start|>",
]


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(shared_tokenizer(find_base("tiny-random").folder))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_whole(speaker: Speaker, text: str) -> None:
    ids = speaker.plain(text)
    draw = random.Random(1)
    for _ in range(5):
        spoken, said, at = Spoken(speaker.tokenizer, special=True), "", 0
        while at < len(ids):
            step = draw.randint(1, 3)
            piece = spoken.add(ids[at : at + step], last=at + step >= len(ids))
            assert "\ufffd" not in piece
            said, at = said + piece, at + step
        assert said == speaker.tokenizer.decode(ids)


def test_half_a_character_is_given_up_at_the_end_only(speaker: Speaker) -> None:
    first = speaker.plain("🦊")[:1]
    spoken = Spoken(speaker.tokenizer)
    assert spoken.add(first) == ""
    assert spoken.add([], last=True) == "\ufffd"


def test_a_stop_text_is_found_across_tokens_and_never_shown(speaker: Speaker) -> None:
    ids = speaker.plain("one two STOP three")
    spoken = Spoken(speaker.tokenizer, stops=["STOP", "never"])
    said = [spoken.add([token]) for token in ids]
    assert "".join(said) == "one two "
    assert spoken.stopped
    held = Spoken(speaker.tokenizer, stops=["two three"])
    said = [held.add([token]) for token in speaker.plain("one two four")]
    assert "".join(said) + held.add([], last=True) == "one two four"  # what began like it is not lost


def test_special_tokens_are_left_out_of_text(speaker: Speaker) -> None:
    ids = speaker.tokenizer("a<|im_end|>b", add_special_tokens=False)["input_ids"]
    assert Spoken(speaker.tokenizer).add(ids, last=True) == "ab"
    assert Spoken(speaker.tokenizer, special=True).add(ids, last=True) == "a<|im_end|>b"


def test_the_prompt_is_the_template_s(speaker: Speaker) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    want = speaker.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert speaker.tokenizer.decode(speaker.prompt({"messages": messages})) == want
    assert speaker.end_of_turn == speaker.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_tools_and_their_results_are_rendered(speaker: Speaker) -> None:
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
    }
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        "tools": [tool],
    }
    text = speaker.tokenizer.decode(speaker.prompt(row))
    assert '"city": "Paris"' in text
    assert "sunny" in text
    with pytest.raises(DataError, match="declare it in 'tools'"):
        speaker.prompt({**row, "tools": []})


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("", 0),
        ("Hello", 5),
        ("Hello <tool", 6),
        ('{"name"', 0),
        ("  t", 0),
        ("to=functions.f", 0),
        ("today", 5),
        ("a [1]", 2),
    ],
)
def test_what_may_be_a_call_is_kept_back(text: str, certain: int) -> None:
    assert certain_part(text) == certain
