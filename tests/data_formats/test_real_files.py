"""Files that users of other trainers have; skipped where they are not at hand."""

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


def test_tool_dialogues_and_judged_answers_are_refused_row_by_row(real_data):
    with pytest.raises(RowError, match=r"191 rows of 300 cannot be read \(function calling 191\)"):
        read_examples(real_data / "glaive_toolcall_en_demo.json", "conversation")
    with pytest.raises(RowError, match=r"300 rows of 300 cannot be read \(unread column 300\)"):
        read_examples(real_data / "kto_en_demo.json", "conversation")
    with pytest.raises(DataFileError, match="They are sharegpt_ranking, which is of kind 'preference'"):
        read_examples(real_data / "dpo_en_demo.json", "conversation")
