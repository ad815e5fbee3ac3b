"""What becomes of rows of each length under each setting, and that the report says it."""

import json

import pytest

from posttrain.data_formats import DataReport, encode, read_examples
from posttrain.data_formats.report import percentile
from posttrain.errors import DataError, EmptyStageDataError, OverlongError, SettingError
from tests.data_formats.chat_templates import CHATML, NO_STOP, SMOLLM2, THINKING, UNPROVABLE

END = 2  # <|im_end|>


def coded(rows, tokenizer, kind="text", max_length=10_000, overlong="error"):
    return encode(read_examples(rows, kind), tokenizer, max_length=max_length, overlong=overlong)


def letters(count):
    """A text of `count` tokens: the tokenizer knows no word with a z."""
    return "z" * count


def texts(*lengths):
    """Documents of that many tokens, the end token included."""
    return [{"text": letters(length - 1)} for length in lengths]


def plain(prompt, answer):
    """A row of prompt + answer tokens, the end token included in the answer."""
    return {"prompt": letters(prompt), "completion": "y" * (answer - 1)}


def pair(prompt, chosen, rejected, **more):
    return {"prompt": letters(prompt), "chosen": "y" * (chosen - 1), "rejected": "x" * (rejected - 1), **more}


def lengths(table, column="input_ids"):
    return table.lengths(column).tolist()


def test_documents_end_with_the_end_token_once_and_are_trained_whole(chatml):
    table = coded([{"text": "zz"}, {"text": "zz<|im_end|>"}], chatml).table
    assert table.row(0) == table.row(1)
    assert table.row(0)["labels"] == table.row(0)["input_ids"] == [*chatml("zz")["input_ids"], END]
    assert len(table.row(0)["input_ids"]) == 3


def test_error_names_the_longest_rows_and_what_fits(chatml):
    with pytest.raises(OverlongError) as error:
        coded(texts(5, 50, 500, 12, 11), chatml, max_length=10)
    # 50, 500, 12 and 11 of the five do not fit
    assert str(error.value) == (
        "4 of 5 rows are longer than max_length=10 tokens (rows[2] has 500, rows[1] has 50, rows[3] has 12); "
        "set max_length=500, which fits all, or overlong to 'drop', 'truncate' or 'split'."
    )


@pytest.mark.parametrize(("rows", "refused"), [(100, False), (99, True)])
def test_error_lets_one_row_in_a_hundred_pass_and_counts_it(chatml, rows, refused):
    data = texts(50, *[5] * (rows - 1))
    if refused:
        with pytest.raises(OverlongError):
            coded(data, chatml, max_length=10)
        return
    result = coded(data, chatml, max_length=10)
    assert (result.report.rows_kept, result.report.rows_dropped) == (99, 1)
    assert result.report.dropped_reasons == {"longer than max_length": 1}
    assert (result.report.overlong_rows, result.report.rows_cut) == (1, 0)


def test_drop_keeps_what_fits_whole(chatml):
    result = coded(texts(5, 10, 11, 500), chatml, max_length=10, overlong="drop")
    assert lengths(result.table) == [5, 10]
    assert [result.table.row(i)["input_ids"][-1] for i in range(2)] == [END, END]
    assert result.report.dropped_reasons == {"longer than max_length": 2}
    assert (result.report.stop_tokens_lost, result.report.smallest_max_length_that_fits) == (0, 500)


def test_truncate_keeps_the_start_and_counts_lost_stop_tokens(chatml):
    result = coded(texts(5, 10, 11, 500), chatml, max_length=10, overlong="truncate")
    assert lengths(result.table) == [5, 10, 10, 10]
    assert END not in result.table.row(2)["input_ids"]
    assert (result.report.rows_cut, result.report.stop_tokens_lost, result.report.rows_dropped) == (2, 2, 0)
    assert (result.report.rows_read, result.report.rows_kept) == (4, 4)


def test_split_loses_no_token_and_crosses_no_document(chatml):
    result = coded(texts(5, 25), chatml, max_length=10, overlong="split")
    assert lengths(result.table) == [5, 10, 10, 5]
    assert [result.table.row(i)["input_ids"][-1] == END for i in range(4)] == [True, False, False, True]
    joined = [token for i in (1, 2, 3) for token in result.table.row(i)["input_ids"]]
    assert joined == [*chatml(letters(24))["input_ids"], END]
    assert (result.report.rows_cut, result.report.rows_dropped, result.report.stop_tokens_lost) == (1, 0, 0)
    assert "1 rows became 3 windows of max_length tokens" in result.report.notes


def test_split_does_not_keep_a_window_of_one_token(chatml):
    # 21 = 10 + 10 + 1: a row of one token predicts nothing.
    result = coded(texts(21), chatml, max_length=10, overlong="split")
    assert lengths(result.table) == [10, 10]
    assert result.report.dropped_reasons == {"window without a trained token": 1}
    assert result.report.stop_tokens_lost == 1


def test_truncated_dialogues_without_a_trained_token_are_dropped(untemplated):
    # prompt 9 + answer 5: one token of the answer fits; prompt 10 and 11: none does.
    rows = [plain(3, 4), plain(9, 5), plain(10, 5), plain(11, 5)]
    result = coded(rows, untemplated, "conversation", 10, "truncate")
    assert lengths(result.table) == [7, 10]
    assert [label for label in result.table.row(1)["labels"] if label != -100] == untemplated("y")[
        "input_ids"
    ]
    assert result.report.dropped_reasons == {"no trained token left after the cut": 2}
    assert (result.report.rows_cut, result.report.stop_tokens_lost) == (1, 1)


def test_split_dialogues_drop_windows_without_a_trained_token(untemplated):
    # prompt 22 + answer 8: windows 0-9 and 10-19 hold no answer, 20-29 does.
    result = coded([plain(22, 8)], untemplated, "conversation", 10, "split")
    assert lengths(result.table) == [10]
    assert result.table.row(0)["labels"][:3] == [-100, -100, untemplated("y")["input_ids"][0]]
    assert result.table.row(0)["labels"][-1] == END
    assert result.report.dropped_reasons == {"window without a trained token": 2}
    assert (result.report.rows_read, result.report.rows_kept, result.report.rows_dropped) == (1, 1, 2)


def test_a_cut_between_two_answers_loses_no_stop_token(chatml):
    turn = [{"role": "user", "content": "z"}, {"role": "assistant", "content": "y"}]
    rows = [{"messages": turn * 3}]
    whole = coded(rows, chatml, "conversation").table.row(0)
    first_stop = max(i for i, label in enumerate(whole["labels"]) if label == END)
    cut = coded(rows, chatml, "conversation", first_stop, "truncate").report
    assert (cut.rows_cut, cut.stop_tokens_lost) == (1, 1)  # the last answer is cut before its stop token
    second = [i for i, label in enumerate(whole["labels"]) if label == END][1]
    assert coded(rows, chatml, "conversation", second + 1, "truncate").report.stop_tokens_lost == 0


def test_pairs_are_judged_by_the_longer_answer_and_cut_in_the_answers_only(untemplated):
    rows = [pair(4, 6, 3), pair(4, 7, 3), pair(4, 3, 9), pair(10, 3, 3), pair(12, 3, 3)]
    result = coded(rows, untemplated, "preference", 10, "truncate")
    assert lengths(result.table, "prompt_ids") == [4, 4, 4]
    assert lengths(result.table, "chosen_ids") == [6, 6, 3]
    assert lengths(result.table, "rejected_ids") == [3, 3, 6]
    assert result.report.dropped_reasons == {"prompt fills max_length": 2}
    assert (result.report.rows_cut, result.report.stop_tokens_lost) == (2, 2)
    assert result.report.length_max == result.report.smallest_max_length_that_fits == 15

    dropped = coded(rows, untemplated, "preference", 10, "drop")
    assert lengths(dropped.table, "chosen_ids") == [6]
    assert dropped.report.dropped_reasons == {"longer than max_length": 2, "prompt fills max_length": 2}
    with pytest.raises(
        OverlongError, match=r"4 of 5 rows.*rows\[4\] has 15.*or overlong to 'drop' or 'truncate'\.$"
    ):
        coded(rows, untemplated, "preference", 10)


def test_pairs_that_a_cut_makes_equal_are_dropped(untemplated):
    rows = [{"prompt": "z", "chosen": "yyyyx", "rejected": "yyyyw"}, pair(1, 3, 3)]
    result = coded(rows, untemplated, "preference", 5, "truncate")
    assert result.report.dropped_reasons == {"answers equal after the cut": 1}
    assert len(result.table) == 1


def test_identical_pairs_are_dropped_and_counted(chatml):
    result = coded(
        [pair(2, 3, 4)] * 4 + [{"prompt": "z", "chosen": "y", "rejected": "y"}], chatml, "preference"
    )
    assert (result.report.identical_pairs, result.report.rows_kept) == (1, 4)
    assert result.report.dropped_reasons == {"chosen equal to rejected": 1}


def test_length_bias_is_the_share_of_longer_chosen_answers(chatml):
    rows = [pair(2, 5, 3), pair(2, 4, 3), pair(2, 9, 3), pair(2, 3, 3)]
    assert coded(rows, chatml, "preference").report.length_bias == 0.75


def test_margins_stay_with_their_pairs(untemplated):
    rows = [pair(2, 3, 4, margin=1.5), pair(2, 300, 4, margin=2), pair(2, 4, 4, margin=-0.25)]
    table = coded(rows, untemplated, "preference", 10, "drop").table
    assert table.numbers["margin"].tolist() == [1.5, -0.25]
    assert coded([pair(2, 3, 4)], untemplated, "preference").table.numbers == {}


def test_nothing_left_is_an_error(chatml):
    with pytest.raises(
        EmptyStageDataError, match=r"nothing is left to train on \(2 longer than max_length\)"
    ):
        coded(texts(50, 60), chatml, max_length=10, overlong="drop")
    with pytest.raises(EmptyStageDataError, match=r"\(1 prompt fills max_length\)"):
        coded([pair(50, 3, 4)], chatml, "preference", 10, "truncate")


@pytest.mark.parametrize("kind", ["text", "conversation", "preference"])
def test_an_empty_held_out_part_is_an_error_when_encoded(chatml, kind):
    from dataclasses import replace

    row = {"text": texts(3)[0], "conversation": plain(2, 3), "preference": pair(2, 3, 4)}[kind]
    with pytest.raises(EmptyStageDataError, match="no row was read"):
        encode(replace(read_examples([row], kind), examples=()), chatml, max_length=10, overlong="error")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlong": "cut"}, "overlong must be one of error, drop, truncate, split, not 'cut'"),
        ({"max_length": 1}, "max_length must be at least 2 tokens, not 1"),
        (
            {"kind": "preference", "overlong": "split"},
            "rows of kind preference can be met with error, drop, truncate",
        ),
    ],
)
def test_settings_out_of_range_are_refused(chatml, settings, message):
    kind = settings.get("kind", "text")
    with pytest.raises(SettingError, match=message):
        coded([pair(2, 3, 4) if kind == "preference" else texts(3)[0]], chatml, **{"kind": kind, **settings})


def chat(*contents):
    return {
        "messages": [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    }


def test_an_injected_system_prompt_is_reported_when_a_row_lacks_one(make_tokenizer):
    tokenizer = make_tokenizer(SMOLLM2)
    own = {"messages": [{"role": "system", "content": "be"}, *chat("hi", "yo")["messages"]]}
    report = coded([own, chat("hi", "yo")], tokenizer, "conversation").report
    assert report.injected_text == "You are a helpful AI assistant named SmolLM"
    assert any(report.injected_text in line for line in report.lines())
    assert coded([own], tokenizer, "conversation").report.injected_text == ""
    plain_pair = coded([pair(2, 3, 4)], make_tokenizer(None), "preference").report
    assert plain_pair.injected_text == ""


def test_plain_texts_become_turns_of_the_models_template(chatml):
    texts = {"prompt": "hi", "completion": "yo"}
    result, turns = coded([texts], chatml, "conversation"), coded([chat("hi", "yo")], chatml, "conversation")
    assert result.table.row(0) == turns.table.row(0)
    assert any(note.startswith("1 rows of plain texts became one user turn") for note in result.report.notes)
    pairs = coded([{"prompt": "hi", "chosen": "yo", "rejected": "no"}], chatml, "preference").table.row(0)
    assert (
        pairs["prompt_ids"] + pairs["chosen_ids"] == turns.table.row(0)["input_ids"][:-1]
    )  # but the last newline


def test_a_history_rewriting_template_makes_a_row_for_each_answer(make_tokenizer):
    result = coded([chat("a", "b", "c", "d"), chat("a", "b")], make_tokenizer(THINKING), "conversation")
    assert (result.report.rows_read, result.report.rows_kept, result.report.rows_dropped) == (2, 3, 0)
    assert any(
        note.startswith("1 dialogues became 2 rows, one for each answer") for note in result.report.notes
    )
    assert result.report.lines()[1] == "made 3 rows of 2, none dropped"


def test_an_added_end_token_is_noted(make_tokenizer):
    report = coded([chat("a", "b")], make_tokenizer(NO_STOP), "conversation").report
    assert any("end token was added in 1 rows" in note for note in report.notes)


def test_a_template_that_cannot_be_proven_names_the_row(make_tokenizer, write):
    path = write("chat.jsonl", [chat("a", "b")])
    for kind, row in (("conversation", path), ("preference", [{**chat("a", "b"), "rejected_response": "c"}])):
        with pytest.raises(DataError) as error:
            coded(row, make_tokenizer(UNPROVABLE), kind)
        place = "chat.jsonl:1" if kind == "conversation" else "rows[0]"
        assert str(error.value).startswith(f"{place}: The chat template changes earlier text")


def test_plain_texts_need_no_template_and_are_noted(make_tokenizer):
    without = make_tokenizer(None)
    report = coded([plain(2, 3)], without, "conversation").report
    assert any("1 rows are plain prompts and answers" in note for note in report.notes)
    assert len(coded([pair(2, 3, 4)], without, "preference").table) == 1
    assert len(coded(texts(4), without).table) == 1
    with pytest.raises(DataError, match="no chat template"):
        coded([chat("a", "b")], without, "conversation")


def test_more_rows_than_a_batch_keep_their_order(untemplated, monkeypatch):
    monkeypatch.setattr("posttrain.data_formats.tokens.raw.BATCH", 3)
    assert lengths(coded(texts(*range(2, 12)), untemplated).table) == list(range(2, 12))
    rows = [plain(2, n) for n in range(2, 12)]
    assert lengths(coded(rows, untemplated, "conversation").table) == list(range(4, 14))
    pairs = [pair(2, n, 30) for n in range(2, 12)]
    assert lengths(coded(pairs, untemplated, "preference").table, "chosen_ids") == list(range(2, 12))


def test_the_report_goes_through_json(chatml):
    report = coded([{"text": "zz", "url": "x"}, *texts(50)], chatml, max_length=10, overlong="drop").report
    assert DataReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    lines = [line for line in report.lines() if not line.startswith("tokenised by ")]  # where it is installed
    assert lines == [
        "rows: format text, because rows have 'text'",
        "kept 1 of 2 rows, 1 dropped (1 longer than max_length)",
        "3 tokens, 3 of them trained (100%)",
        "lengths: half of the rows have up to 3 tokens, 95 % up to 50, the longest 50; max_length is 10",
        "1 rows are longer than max_length and 0 were cut; max_length=50 fits all",
        "columns not read: url",
    ]


def test_percentiles_are_lengths_that_occur():
    # of 1..20, half are at most 10, and 95 % (19 of 20) at most 19
    assert (percentile(list(range(1, 21)), 0.5), percentile(list(range(1, 21)), 0.95)) == (10, 19)
    assert (percentile([7], 0.5), percentile([7], 0.95)) == (7, 7)


def test_chatml_is_the_template_the_counts_above_rely_on(chatml):
    assert chatml.chat_template == CHATML
    assert [len(chatml(letter * 8)["input_ids"]) for letter in "xyz"] == [8, 8, 8]


def prompts(*texts):
    return read_examples([{"prompt": text, "answer": i} for i, text in enumerate(texts)], "prompt")


def test_prompts_end_where_the_model_starts_to_answer(chatml):
    result = encode(prompts("Hi", "Who?"), chatml, max_length=100, overlong="error")
    text = chatml.decode(result.table.row(0)["prompt_ids"])
    assert text == chatml.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert result.table.records == [
        {"prompt": "Hi", "columns": {"answer": 0}},
        {"prompt": "Who?", "columns": {"answer": 1}},
    ]
    assert (result.report.rows_kept, result.report.trained_tokens) == (2, 0)


def test_prompts_and_their_columns_survive_the_disk(chatml, tmp_path):
    table = encode(prompts("Hi", "你好"), chatml, max_length=100, overlong="error").table
    table.save(tmp_path)
    again = type(table).load(tmp_path)
    assert [again.row(i) for i in range(2)] == [table.row(i) for i in range(2)]
    assert list(again.records) == list(table.records)


def test_long_prompts_are_refused_or_dropped_with_their_columns(chatml):
    long = prompts("Hi", "word " * 200, "Who?")
    with pytest.raises(
        OverlongError, match=r"the 40 tokens that max_length leaves them beside max_new_tokens"
    ):
        encode(long, chatml, max_length=40, overlong="error")
    result = encode(long, chatml, max_length=40, overlong="drop")
    assert [record["columns"]["answer"] for record in result.table.records] == [0, 2]
    assert (result.report.rows_kept, result.report.rows_dropped) == (2, 1)


@pytest.mark.parametrize("near", [1, 2, 64])
def test_rows_keep_their_order_however_they_are_read_together(untemplated, monkeypatch, near):
    monkeypatch.setattr("posttrain.data_formats.tokens.overlong.CHUNK", 7)
    monkeypatch.setattr("posttrain.data_formats.tokens.overlong.NEAR", near)
    sizes = [3, 4, 50, 5, 5, 60, 70, 6, 3, 3, 3, 80, 4, 5, 6, 7, 90, 3]
    rows = texts(*sizes)
    assert lengths(coded(rows, untemplated, "text", 10, "drop").table) == [
        size for size in sizes if size <= 10
    ]
    cut = coded(rows, untemplated, "text", 10, "truncate").table
    assert lengths(cut) == [min(size, 10) for size in sizes]
