"""Answers with verdicts: every way of writing one, and what is no verdict."""

from typing import Any

import pytest

from posttrain.data_formats import Judged, Pair, read_examples
from posttrain.errors import RowError

PROMPT = [{"role": "user", "content": "sum"}]
ANSWER = [{"role": "assistant", "content": "4"}]
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("openai_messages_label", {"messages": PROMPT + ANSWER}, "label"),
    ("sharegpt_label", {"conversations": [{"from": "human", "value": "sum"}, {"from": "gpt", "value": "4"}]}, "kto_tag"),
    ("alpaca_label", {"instruction": "sum", "input": "", "output": "4"}, "kto_tag"),
    ("prompt_completion_label", {"prompt": PROMPT, "completion": ANSWER}, "label"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "column"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize(
    ("value", "good"),
    [(True, True), (False, False), ("True", True), ("false", False), (1, True), (0.0, False)],
)
def test_every_form_with_every_way_to_say_it(
    name: str, row: dict[str, Any], column: str, value: Any, good: bool
) -> None:
    found = read_examples([row | {column: value}], "unpaired")
    (example,) = found.examples
    assert found.detection.format == name
    assert isinstance(example, Judged)
    assert (example.prompt[-1].content, example.answer, example.desirable) == ("sum", "4", good)  # type: ignore[union-attr]


def test_plain_texts_stay_plain() -> None:
    (example,) = read_examples([{"prompt": "sum", "completion": "4", "label": True}], "unpaired").examples
    assert isinstance(example, Judged)
    assert (example.prompt, example.answer) == ("sum", "4")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("good", "label: is 'good' and must be true for a good answer or false for a bad one"),
        (2, r"label: is a number \(2\) and must be true"),
        (None, "label: is null and must be true"),
        (float("nan"), "label: is a number"),
        ([1], "label: is a list"),
    ],
)
def test_what_is_no_verdict_is_refused(value: Any, text: str) -> None:
    rows = [{"prompt": "sum", "completion": "4", "label": True}] * 3
    with pytest.raises(RowError, match=text):
        read_examples([*rows, rows[0] | {"label": value}], "unpaired")


def test_two_verdicts_and_none_are_refused() -> None:
    row = {"prompt": "sum", "completion": "4", "label": True}
    with pytest.raises(RowError, match="kto_tag: is there beside 'label'; keep one of them"):
        read_examples([row | {"kto_tag": True}], "unpaired")
    with pytest.raises(
        RowError, match=r"row 2 label: is missing; the fields are prompt, completion|label: is missing"
    ):
        read_examples([row, {"prompt": "sum", "completion": "4"}], "unpaired")


def test_a_dialogue_must_end_with_the_judged_answer() -> None:
    with pytest.raises(RowError, match="messages"):
        read_examples([{"messages": PROMPT + ANSWER + PROMPT, "label": True}], "unpaired")


def test_a_pair_is_a_good_answer_and_a_bad_one(chatml: Any) -> None:
    from posttrain.data_formats import encode

    rows = [
        {"prompt": "sum", "chosen": "four", "rejected": "five"},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
    ]
    examples = read_examples([*rows, *[rows[0]] * 8], "unpaired")
    assert isinstance(examples.examples[0], Pair)
    encoded = encode(examples, chatml, max_length=64, overlong="error")
    assert encoded.table.numbers["label"].tolist() == [True, False] * 9
    first, second = encoded.table.row(0), encoded.table.row(1)
    assert first["prompt_ids"] == second["prompt_ids"]
    assert "four" in chatml.decode(first["completion_ids"])
    assert "five" in chatml.decode(second["completion_ids"])
    assert encoded.report.rows_dropped == 1  # chosen equal to rejected
    assert encoded.report.rows_kept == 18


def test_half_an_answer_is_cut_only_when_asked_for(chatml: Any) -> None:
    from posttrain.data_formats import encode

    rows = [{"prompt": "a", "completion": "four " * 40, "label": True}]
    examples = read_examples(rows, "unpaired")
    cut = encode(examples, chatml, max_length=30, overlong="truncate")
    assert len(cut.table.row(0)["prompt_ids"] + cut.table.row(0)["completion_ids"]) == 30
    assert cut.report.rows_cut == cut.report.stop_tokens_lost == 1
