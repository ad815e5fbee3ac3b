"""Files that users of other trainers have; skipped where they are not at hand."""

from collections import Counter

import pytest

from posttrain.data_formats import encode, hold_out, read_examples
from posttrain.errors import DataFileError, RowError


@pytest.mark.parametrize(
    ("name", "kind", "format_", "rows"),
    [
        ("alpaca_en_demo.json", "conversation", "alpaca", 999),
        ("alpaca_zh_demo.json", "conversation", "alpaca", 1000),
        ("identity.json", "conversation", "alpaca", 91),
        ("c4_demo.jsonl", "text", "text", 300),
        ("dpo_en_demo.json", "preference", "sharegpt_ranking", 299),
    ],
)
def test_a_real_file_is_read_whole(real_data, chatml, name, kind, format_, rows):
    examples = read_examples(real_data / name, kind)
    assert (len(examples), examples.detection.format) == (rows, format_)
    train, held = hold_out(examples)
    assert len(train) + len(held) == rows and len(held) >= 8
    result = encode(held, chatml, max_length=100_000, overlong="error")
    assert (len(result.table), result.report.rows_dropped) == (len(held), 0)
    answers = "labels" if kind != "preference" else "chosen_ids"
    assert all(result.table.row(i)[answers][-2:].count(2) == 1 for i in range(len(held)))


def test_real_pairs_are_cut_and_counted(real_data, chatml):
    examples = read_examples(real_data / "dpo_en_demo.json", "preference")
    report = encode(examples, chatml, max_length=1500, overlong="truncate").report
    assert report.rows_kept + report.rows_dropped == report.rows_read == 299
    assert report.rows_cut == report.stop_tokens_lost > 0
    assert set(report.dropped_reasons) == {"prompt fills max_length", "answers equal after the cut"}
    assert report.overlong_rows == report.rows_cut + report.rows_dropped


def test_dialogues_with_tools_are_read_with_every_call_and_result(real_data):
    found = read_examples(real_data / "glaive_toolcall_en_demo.json", "conversation")
    turns = [message for example in found.examples for message in example.messages]
    assert (len(found), found.detection.format, found.notes) == (300, "sharegpt_tools", ())
    assert sum(bool(example.tools) for example in found.examples) == 191
    assert sum(len(example.tools) for example in found.examples) == 219
    assert sum(len(message.calls) for message in turns) == 211
    counts = Counter(message.role for message in turns)
    assert counts == {"user": 746, "assistant": 746 + 211, "tool": 211}
    assert all(isinstance(call.arguments, dict) for message in turns for call in message.calls)


def test_dialogues_with_tools_are_encoded_whole(real_data, chatml):
    examples = read_examples(real_data / "glaive_toolcall_en_demo.json", "conversation")
    result = encode(examples, chatml, max_length=100_000, overlong="error")
    assert (len(result.table), result.report.rows_dropped) == (300, 0)
    assert any("knows no tools" in note for note in result.report.notes)


def test_judged_answers_are_read_with_their_verdicts(real_data, chatml):
    found = read_examples(real_data / "kto_en_demo.json", "unpaired")
    assert (len(found), found.detection.format) == (300, "openai_messages_label")
    assert Counter(example.desirable for example in found.examples) == {True: 150, False: 150}
    result = encode(found, chatml, max_length=100_000, overlong="error")
    assert (len(result.table), result.report.rows_dropped) == (300, 0)
    assert result.table.numbers["label"].sum() == 150


def test_files_of_another_kind_are_refused(real_data):
    with pytest.raises(RowError, match=r"300 rows of 300 cannot be read \(unread column 300\)"):
        read_examples(real_data / "kto_en_demo.json", "conversation")
    with pytest.raises(DataFileError, match="They are sharegpt_ranking, which is of kind 'preference'"):
        read_examples(real_data / "dpo_en_demo.json", "conversation")
