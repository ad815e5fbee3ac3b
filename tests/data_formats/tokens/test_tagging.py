"""Spans of characters as tags of tokens: rows in, tokens out, spans back."""

import random
from typing import Any

import pytest

from posttrain.data_formats import Limits, Tagged, classification, encode_data, read_examples
from posttrain.data_formats.data import Data
from posttrain.data_formats.tokens.tagging import spans_of, tag_names, tag_tokens
from posttrain.errors import EmptyStageDataError, RowError, SettingError

NAMES = tag_names(["place", "who"])  # O, B-place, I-place, B-who, I-who


def span(start: int, end: int, label: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_a_row_becomes_a_tagged_text():
    rows = [
        {"text": "Ada in Rome", "spans": [span(7, 11, "place"), span(0, 3, "who")]},
        {"text": "Ada", "entities": [{"text": "Ada", "type": "who"}]},  # said once: its place is clear
        {"text": "nobody", "spans": []},
    ]
    found = read_examples(rows, "tagged")
    assert found.detection.format == "extraction"
    assert found.examples == (
        Tagged("rows[0]", "Ada in Rome", ((7, 11, 0), (0, 3, 1))),
        Tagged("rows[1]", "Ada", ((0, 3, 1),)),
        Tagged("rows[2]", "nobody", ()),
    )


GOOD = {"text": "Ada in Rome", "spans": [span(0, 3, "who")]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "spans": [span(0, 2, "x")]}, r"spans\[0\].start: is 0 and the end 2; the text has 1"),
        ({"text": "a b", "spans": [span(1, 2, "x")]}, r"holds only blanks"),
        ({"text": "a b", "spans": [span(0, 3, "x"), span(2, 3, "y")]}, r"spans\[1\]: overlaps spans\[0\]"),
        ({"text": "a a", "spans": [{"text": "a", "label": "x"}]}, r"is 'a', which is 2 times in the text"),
        ({"text": "a", "spans": [{"text": "b", "label": "x"}]}, r"is 'b', which is not in the text"),
        ({"text": "a", "records": [{"x": 1}]}, r"records: are no spans of the text"),
        ({"text": "a", "spans": [{"start": 0, "end": 1}]}, r"spans\[0\].label: is missing"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(RowError, match=message):
        read_examples([GOOD, row], "tagged")


def test_a_file_without_any_span_has_nothing_to_learn():
    with pytest.raises(RowError, match="is an empty list, as in all rows"):
        read_examples([{"text": "a", "spans": []}], "tagged")


def test_tokens_are_tagged_by_the_span_that_they_touch():
    text = "Ada Lovelace, in Rome"
    # tokens: Ada| Love|lace|,| in| Rome
    offsets = [(0, 3), (3, 8), (8, 12), (12, 13), (13, 16), (16, 21)]
    tags, crossed, lost = tag_tokens(text, offsets, [(0, 12, 1), (17, 21, 0)])
    assert [NAMES[tag] for tag in tags] == ["B-who", "I-who", "I-who", "O", "O", "B-place"]
    assert (crossed, lost) == (False, False)  # the blank in front of a token is not part of it
    assert spans_of(tags, NAMES) == [("who", "0:2"), ("place", "5:5")]


def test_borders_inside_a_token_are_told():
    tags, crossed, lost = tag_tokens("Romans", [(0, 6)], [(0, 4, 0)])
    assert ([NAMES[tag] for tag in tags], crossed, lost) == (["B-place"], True, False)
    tags, crossed, lost = tag_tokens("RomeAda", [(0, 7)], [(0, 4, 0), (4, 7, 1)])
    assert ([NAMES[tag] for tag in tags], crossed, lost) == (["B-place"], True, True)


def test_tokens_without_characters_are_not_tagged():
    tags, crossed, _ = tag_tokens("Rome", [(0, 0), (0, 4)], [(0, 4, 0)])
    assert (tags, crossed) == ([-100, 1], False)


def test_two_neighbours_of_one_label_stay_two():
    tags, _, _ = tag_tokens("a b", [(0, 1), (2, 3)], [(0, 1, 0), (2, 3, 0)])
    assert [NAMES[tag] for tag in tags] == ["B-place", "B-place"]
    assert spans_of(tags, NAMES) == [("place", "0:0"), ("place", "1:1")]


def test_predicted_tags_that_no_span_would_give_are_read_as_conll_does():
    read = [NAMES.index(name) for name in ("I-who", "I-place", "I-place", "O", "B-who", "I-who")]
    assert spans_of(read, NAMES) == [("who", "0:0"), ("place", "1:2"), ("who", "4:5")]
    assert spans_of([-100, *read[:1], -100], NAMES) == [("who", "1:1")]


def test_every_span_of_whole_words_comes_back():
    draw = random.Random(0)
    for _ in range(300):
        words = [draw.choice(["a", "bc", "def"]) for _ in range(draw.randint(1, 9))]
        text, offsets = " ".join(words), []
        for word in words:
            begin = offsets[-1][1] + 1 if offsets else 0
            offsets.append((begin, begin + len(word)))
        spans, expected, at = [], [], 0
        while at < len(words):
            last = min(len(words) - 1, at + draw.randint(0, 2))
            if draw.random() < 0.5:
                label = draw.randrange(2)
                spans.append((offsets[at][0], offsets[last][1], label))
                expected.append((["place", "who"][label], f"{at}:{last}"))
            at = last + 1
        draw.shuffle(spans)
        tags, crossed, lost = tag_tokens(text, offsets, spans)
        assert not crossed and not lost
        assert spans_of(tags, NAMES) == expected


def test_the_table_has_tags_and_the_report_counts_what_is_not_exact(smollm2, tmp_path):
    rows = [{"text": f"word{i} Rome", "spans": [{"text": "Rome", "label": "place"}]} for i in range(20)]
    rows += [{"text": f"aRomeb {i}", "spans": [{"text": "om", "label": "place"}]} for i in range(4)]
    made = encode_data(Data(rows), Data(rows[:3]), "tagged", smollm2, Limits(64, "error"), tmp_path)
    table, report = made["train"].table, made["train"].report
    row = table.row(0)
    assert (
        smollm2.decode([i for i, tag in zip(row["input_ids"], row["labels"], strict=True) if tag == 1])
        == " Rome"
    )
    assert row["labels"][-1] == -100 and row["input_ids"][-1] == smollm2.eos_token_id
    assert "spans by label: place 24" in report.notes
    assert any(
        note.startswith("4 rows have spans whose borders fall inside a token") for note in report.notes
    )
    assert (
        tmp_path / "labels.json"
    ).read_text() == '{"names": ["O", "B-place", "I-place"], "several": false}'


def test_rows_that_are_cut_keep_their_last_token(smollm2, tmp_path):
    rows = [{"text": "Rome " * 30 + str(i), "spans": [span(0, 4, "place")]} for i in range(20)]
    made = encode_data(Data(rows), Data(rows[:3]), "tagged", smollm2, Limits(12, "truncate"), tmp_path)
    row = made["train"].table.row(0)
    assert len(row["input_ids"]) == len(row["labels"]) == 12
    assert (row["input_ids"][-1], row["labels"][-1]) == (smollm2.eos_token_id, -100)
    assert made["train"].report.rows_cut == 20


def test_one_label_is_nothing_to_tell_apart(smollm2, tmp_path):
    rows = [{"text": f"word {i}", "label": "good"} for i in range(20)]
    with pytest.raises(EmptyStageDataError, match="20 rows to train on all have the label 'good'"):
        encode_data(Data(rows), Data(rows[:2]), "labelled", smollm2, Limits(64, "error"), tmp_path)


def test_a_label_of_eval_data_must_be_one_of_the_training_rows(smollm2, tmp_path):
    rows = [{"text": f"word {i}", "label": ["bad", "good"][i % 2]} for i in range(20)]
    odd = [*rows[:3], {"text": "none", "label": "odd"}]
    with pytest.raises(RowError, match="is 'odd', which is not among the labels"):
        encode_data(Data(rows), Data(odd), "labelled", smollm2, Limits(64, "error"), tmp_path)


def test_a_label_that_no_row_trains_is_told(smollm2, tmp_path):
    rows = [{"text": f"word {i}", "label": i % 2} for i in range(20)]
    data = Data(rows, format=classification(labels=["bad", "good", "odd"]))
    made = encode_data(data, data, "labelled", smollm2, Limits(64, "error"), tmp_path)
    assert made["train"].report.notes[-2:] == (
        "rows by label: bad 10, good 10, odd 0",
        "labels without any of the rows to train on, so they will not be learned: odd",
    )
    with pytest.raises(SettingError, match="is of kind 'conversation', and this stage takes kind 'labelled'"):
        read_examples(Data(rows, format=classification(instruction="Which?")), "labelled")


def test_an_exchange_is_the_texts_before_the_answer_and_the_answer(smollm2, tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": f"four {i}"}]} for i in range(20)]
    made = encode_data(Data(rows), Data(rows[:4]), "exchange", smollm2, Limits(64, "error"), tmp_path)
    row = made["train"].table.row(3)
    assert smollm2.decode(row["prompt_ids"]) == "Be brief.\n\n2+2?" + smollm2.eos_token
    assert smollm2.decode(row["completion_ids"]) == "four 3" + smollm2.eos_token
    question = made["held_out"].questions[0]
    assert question.stop_id == smollm2.eos_token_id
    two = [{"messages": [*rows[0]["messages"], *rows[0]["messages"][1:]]}]
    with pytest.raises(
        RowError, match=r"rows\[20\]: a sequence-to-sequence model takes .* the row has 2 answers"
    ):
        encode_data(Data(rows + two), None, "exchange", smollm2, Limits(64, "error"), tmp_path / "two")
