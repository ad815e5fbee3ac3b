"""What is counted in a data file, and that the page shows it and runs nothing."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import Data
from posttrain.data_formats.formats.registry import formats
from posttrain.data_formats.inspection import Inspection, Lengths, histogram, inspect
from posttrain.data_formats.inspection_page import as_page, lengths, verdict
from posttrain.errors import DataFileError, SettingError

Write = Callable[[str, Any], Path]


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def dialogue(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [turn(*one) for one in zip(roles, texts, strict=False)], **more}


FAULTY = [
    dialogue("Hi", "Hello", id=1),
    dialogue("Hi", "Hello", id=2),  # says what row 1 says
    dialogue("你好吗", "很好", "Good", "Yes"),
    {"messages": [turn("user", ""), turn("assistant", "x")]},
    {"messages": [turn("user", "x"), turn("assistant", 7)]},
    {"messages": [turn("user", "x"), turn("assistant", None)]},
]


def test_known_faults_are_counted(write: Write) -> None:
    found = inspect(write("chat.jsonl", FAULTY))
    assert (found.kind, found.format, found.rows, found.bad_rows) == ("conversation", "openai_messages", 6, 3)
    assert found.bad_kinds == {"empty": 1, "wrong type": 2}
    assert [line.split(":")[1] for line in found.bad_lines] == [
        "4 messages[0].content",
        "5 messages[1].content",
        "6 messages[1].content",
    ]
    assert found.duplicates == 1
    assert found.notes == ("columns not read: id",)  # and none about a file of bad rows
    # user: Hi, Hi, 你好吗, Good; assistant: Hello, Hello, 很好, Yes
    assert found.characters == {"user": Lengths(2, 4, 4), "assistant": Lengths(3, 5, 5)}
    assert found.turns == Lengths(2, 4, 4)
    assert found.scripts == {"Latin": 21 / 26, "CJK": 5 / 26}
    assert not found.good


def test_a_good_file(write: Write) -> None:
    found = inspect(write("text.jsonl", [{"text": "one"}, {"text": "two"}]))
    assert (found.kind, found.rows, found.bad_rows, found.duplicates, found.good) == ("text", 2, 0, 0, True)
    assert verdict(found) == "All 2 rows are good."
    assert lengths(found) == [("characters of text", Lengths(3, 3, 3))]


def test_two_answers_to_one_prompt_are_no_duplicates(write: Write) -> None:
    rows = [{"prompt": "a", "chosen": answer, "rejected": "z"} for answer in ("x", "y", "x")]
    found = inspect(write("pairs.jsonl", rows))
    assert (found.kind, found.duplicates) == ("preference", 1)


def test_too_many_pairs_of_equal_answers_are_counted_and_not_raised(write: Write, chatml: Any) -> None:
    rows = [{"prompt": "a", "chosen": "x", "rejected": answer} for answer in ("x", "y", "z")]
    path = write("pairs.jsonl", rows)
    for found in (inspect(path), inspect(path, None, chatml)):
        assert (found.rows, found.bad_rows, found.identical_pairs, found.tokens) == (3, 0, 1, None)
        assert not found.good
        (refusal,) = found.refusals
        assert refusal.startswith("1 of 3 pairs have chosen equal to rejected")


def test_the_kind_follows_a_format_that_is_given(write: Write) -> None:
    path = write("rows.jsonl", [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}])
    assert inspect(path).kind == "conversation"
    assert inspect(Data(path, format="text")).kind == "text"
    labelled = next(one for one in formats() if one.kind == "labelled")
    assert inspect(Data(path, format=labelled)).kind == "labelled"
    with pytest.raises(SettingError, match="Did you mean 'alpaca'"):
        inspect(Data(path, format="alpcaa"))


def test_what_no_format_knows_is_one_error(write: Write) -> None:
    with pytest.raises(DataFileError, match="has these fields: a, b"):
        inspect(write("odd.jsonl", [{"a": 1, "b": 2}]))


def test_bins_grow_by_half_and_one_ends_at_the_border() -> None:
    assert histogram([], 10) == ()
    # ends ... 3 4 6 8 12 16 24, and 10
    assert histogram([5, 6, 7, 11, 13], 10) == ((5, 6, 2), (7, 8, 1), (9, 10, 0), (11, 12, 1), (13, 16, 1))
    # 1 to 1,000 is more than 128 times: they double
    assert histogram([1, 1000], 1024)[-2:] == ((257, 512, 0), (513, 1024, 1))
    assert sum(rows for _, _, rows in histogram(list(range(1, 500)), 77)) == 499


def trained_text(found: Inspection) -> list[list[str]]:
    assert found.tokens is not None
    return [
        [text for _, pieces in one.parts for text, trained in pieces if trained]
        for one in found.tokens.previews
    ]


def whole_text(found: Inspection) -> list[str]:
    assert found.tokens is not None
    return ["".join(text for _, pieces in one.parts for text, _ in pieces) for one in found.tokens.previews]


def test_a_preview_marks_just_what_is_trained(write: Write, chatml: Any) -> None:
    path = write("chat.jsonl", FAULTY)
    found = inspect(path, None, chatml, previews=3)
    assert found.tokens is not None
    assert [one.place for one in found.tokens.previews] == ["chat.jsonl:1", "chat.jsonl:2", "chat.jsonl:3"]
    assert trained_text(found)[0] == ["Hello<|im_end|>"]
    assert trained_text(found)[2] == ["很好<|im_end|>", "Yes<|im_end|>"]
    assert whole_text(found)[2] == (
        "<|im_start|>user\n你好吗<|im_end|>\n<|im_start|>assistant\n很好<|im_end|>\n"
        "<|im_start|>user\nGood<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    )
    trained = chatml("很好<|im_end|>Yes<|im_end|>", add_special_tokens=False)["input_ids"]
    assert found.tokens.previews[2].trained == len(trained)
    assert found.tokens.report.dropped_reasons == {"bad": 3}
    assert not any("bad_rows.jsonl" in line for line in found.tokens.report.lines())


def test_pairs_and_judged_answers_are_shown_by_name(write: Write, chatml: Any) -> None:
    pairs = inspect(
        write("pairs.jsonl", [{"prompt": "Q", "chosen": "good", "rejected": "bad"}]), None, chatml
    )
    assert pairs.tokens is not None
    prompt = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert pairs.tokens.previews[0].parts == (
        ("prompt", ((prompt, False),)),
        ("chosen", (("good<|im_end|>", True),)),
        ("rejected", (("bad<|im_end|>", True),)),
    )
    judged = inspect(
        write("judged.jsonl", [{"prompt": "Q", "completion": "A", "label": False}]), None, chatml
    )
    assert judged.tokens is not None
    assert [name for name, _ in judged.tokens.previews[0].parts] == ["prompt", "bad answer"]


def test_a_tokenizer_that_hides_the_first_space_loses_none() -> None:
    """As Llama 2: a decoded text begins without the space of its first token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"</s>": 0, "▁ask": 1, "▁me": 2, "▁two": 3, "▁words": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    row = [{"prompt": "ask me", "completion": " two words"}]
    assert trained_text(inspect(row, None, tokenizer)) == [[" two words</s>"]]


def test_what_does_not_fit_is_said_as_training_would(write: Write, chatml: Any) -> None:
    rows = [dialogue("Hi", "Hello"), dialogue("Hi", "x" * 300)]
    found = inspect(write("chat.jsonl", rows), None, chatml, max_length=64)
    assert found.tokens is not None
    assert found.tokens.overlong.startswith(
        "1 of 2 rows are longer than max_length=64 tokens (chat.jsonl:2 has"
    )
    assert verdict(found) == "All 2 rows are good, but 1 is longer than max_length=64."
    assert [one.place for one in found.tokens.previews] == ["chat.jsonl:1"]
    assert [low for low, _, rows in found.tokens.histogram if low == 65]  # a bin begins behind max_length


def test_a_text_that_never_fits_is_shown_in_windows(write: Write, chatml: Any) -> None:
    text = "one two three four five six seven eight nine ten"
    found = inspect(write("text.jsonl", [{"text": text}]), None, chatml, max_length=4, previews=2)
    assert found.tokens is not None and found.tokens.overlong == ""
    assert [one.tokens for one in found.tokens.previews] == [4, 4]
    assert text.startswith("".join(whole_text(found)))


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.marked: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        self.marked += [""] if tag == "mark" else []

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags.count("mark") > self.tags.count("/mark"):
            self.marked[-1] += data


ATTACK = "<script>alert(1)</script><img src=x onerror=y>{{ 7 }}"


def test_html_in_a_file_is_shown_as_text(write: Write, chatml: Any) -> None:
    rows = [
        dialogue(ATTACK, f"a\n{ATTACK}", **{ATTACK: 1}),
        {"messages": [turn(ATTACK, "x"), turn("assistant", "y")]},
    ]
    found = inspect(write("<b>.jsonl", rows), None, chatml)
    page = Page(as_page(found))
    assert not {"script", "img", "b"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert page.text.count(ATTACK) == 5  # the column, the bad row's role twice, question and answer
    assert page.marked == [f"a↵\n{ATTACK}<|im_end|>"]
    assert "<b>.jsonl" in page.text
    policy = dict.fromkeys(value for name, value in page.attributes if name == "content")
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy


def test_the_page_holds_the_numbers_and_the_language(write: Write, chatml: Any) -> None:
    found = inspect(write("chat.jsonl", FAULTY), None, chatml, max_length=20)
    page = Page(as_page(found))
    for said in ("3: empty 1, wrong type 2", "1: each says what an earlier row says", "max_length 20"):
        assert said in page.text
    assert all(line in page.text for line in found.bad_lines)
    assert ("lang", "zh") in page.attributes
    assert page.tags.count("i") == sum(rows > 0 for _, _, rows in found.tokens.histogram)  # type: ignore[union-attr]


def test_control_characters_are_pictures(write: Write, chatml: Any) -> None:
    found = inspect(write("chat.jsonl", [dialogue("a\x1b[2Jb", "c\u202ed")]), None, chatml)
    page = Page(as_page(found))
    assert "a␛[2Jb" in page.text and "c\\u202ed" in page.text
    assert "\x1b" not in page.text and "\u202e" not in page.text
