"""The settings of Data: columns, limits, system prompts, mixtures, and what makes a source another one."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import (
    Data,
    Kind,
    Limits,
    Message,
    classification,
    detect,
    encode_data,
    read_examples,
    translation,
)
from posttrain.data_formats.data import described
from posttrain.errors import DataFileError, RowError, SettingError

LIMITS = Limits(1000, "error")


def texts(name: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{name}{i}"} for i in range(count)]


def chat(*contents: str, **more: Any) -> dict[str, Any]:
    roles = itertools.cycle(("user", "assistant"))
    return {
        "messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)],
        **more,
    }


def said(example: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


# Settings


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("a.jsonl", {"limit": 0}, "Data(limit=0): limit must be at least 1."),
        ("a.jsonl", {"limit": -3}, "Data(limit=-3): limit must be at least 1."),
        ("a.jsonl", {"limit": 2.5}, "Data(limit=2.5): limit must be a whole number of rows."),
        ("a.jsonl", {"limit": True}, "Data(limit=True): limit must be a whole number of rows."),
        ("a.jsonl", {"limit": "9"}, "Data(limit='9'): limit must be a whole number of rows."),
        ("a.jsonl", {"on_bad_rows": "skip"}, "Data(on_bad_rows='skip'): on_bad_rows must be 'error' or 'quarantine'."),
        ("a.jsonl", {"format": 7}, "Data(format=7): format must be a name or a data format."),
        ("a.jsonl", {"format": ""}, "Data(format=''): format must be a name or a data format."),
        ("a.jsonl", {"system": 7}, "Data(system=7): system must be a text that is not empty."),
        ("a.jsonl", {"system": " "}, "Data(system=' '): system must be a text that is not empty."),
        ("a.jsonl", {"columns": ["question"]}, "Data(columns=...): columns must be a dict such as"),
        ("a.jsonl", {"columns": {"question": 1}}, "Data(columns=...): columns must be a dict such as"),
        ("a.jsonl", {"columns": {"question": "x", "answer": "x"}}, "Data(columns=...): 'x' is named twice; a column has one"),
        ("a.jsonl", {"weights": [1.0]}, "Data(weights=..., interleave=...): these mix a list of sources; there is one."),
        ("a.jsonl", {"interleave": "all_exhausted"}, "Data(weights=..., interleave=...): these mix a list of sources"),
        ([{"text": "a"}], {"weights": [1.0]}, "Data(weights=..., interleave=...): these mix a list of sources"),
        ("", {}, "Data(''): the name of the file is empty."),
        (["a", "b"], {"interleave": "random"}, "Data(interleave='random'): interleave must be 'first_exhausted' or"),
        (["a", "b"], {"weights": [1]}, "Data(weights=...): 1 weights for 2 sources; give one for each."),
        (["a", "b"], {"weights": []}, "Data(weights=...): 0 weights for 2 sources; give one for each."),
        (["a", "b"], {"weights": 0.5}, "Data(weights=0.5): weights must be a list of numbers."),
        (["a", "b"], {"weights": "12"}, "Data(weights='12'): weights must be a list of numbers."),
        (["a", "b"], {"weights": [1, "2"]}, "Data(weights=[1, '2']): weights must be a list of numbers."),
        (["a", "b"], {"weights": [1, True]}, "Data(weights=[1, True]): weights must be a list of numbers."),
        (["a", "b"], {"weights": [1, 0]}, "Data(weights=[1, 0]): weights must be positive numbers."),
        (["a", "b"], {"weights": [1, -1]}, "Data(weights=[1, -1]): weights must be positive numbers."),
        (["a", "b"], {"weights": [1, float("nan")]}, "Data(weights=[1, nan]): weights must be positive numbers."),
        (["a", "b"], {"weights": [1, float("inf")]}, "Data(weights=[1, inf]): weights must be positive numbers."),
        (["a", "b"], {"format": "qa"}, "Data([...], format=...): a setting of one source; put it into that source's own"),
        (["a", "b"], {"columns": {"a": "b"}}, "Data([...], columns=...): a setting of one source"),
        (["a", "b"], {"limit": 3}, "Data([...], limit=...): a setting of one source"),
        (["a", "b"], {"system": "be"}, "Data([...], system=...): a setting of one source"),
        ([Data(["a", "b"]), "c"], {}, "Data([...]): a mixture cannot hold another one; list all sources in one."),
    ],
)  # fmt: skip
def test_settings_that_contradict_are_refused_before_anything_is_read(
    source: Any, settings: Any, message: str
) -> None:
    with pytest.raises(SettingError) as error:
        Data(source, **settings)
    assert str(error.value).startswith(message)


# Columns


def test_columns_bring_a_file_into_a_format(write: Callable[..., Path]) -> None:
    path = write("faq.csv", "Frage,Antwort,Nr\nWo?,Hier.,1\n")
    data = Data(path, columns={"question": "Frage", "answer": "Antwort"})
    assert detect(data, "conversation").format == "qa"
    found = read_examples(data, "conversation")
    assert said(found.examples[0]) == [("user", "Wo?"), ("assistant", "Hier.")]
    assert found.notes == ("columns not read: Nr",)
    with pytest.raises(DataFileError, match="no known format"):
        read_examples(path, "conversation")


def test_two_columns_can_change_places() -> None:
    rows = [{"question": "Hier.", "answer": "Wo?", "id": 1}]
    (example,) = read_examples(
        Data(rows, columns={"question": "answer", "answer": "question"}), "conversation"
    ).examples
    assert said(example) == [("user", "Wo?"), ("assistant", "Hier.")]


def test_a_column_that_keeps_its_name_may_be_named() -> None:
    (example,) = read_examples(Data(texts("a", 1), columns={"text": "text"}), "text").examples
    assert example.text == "a0"  # type: ignore[union-attr]


def test_a_column_can_be_renamed_out_of_the_way() -> None:
    rows = [{"text": "a", "label": 3}]
    found = read_examples(Data(rows, columns={"category": "label"}), "text")
    assert found.notes == ("columns not read: category",)


def test_a_row_may_leave_out_a_column_that_is_optional(write: Callable[..., Path]) -> None:
    rows = [
        {"q": "Wo?", "answer": "Hier.", "c": "Innen."},
        {"q": "Wann?", "answer": "Jetzt."},
        {"answer": "Nie."},
    ]
    data = Data(write("a.jsonl", rows[:2]), columns={"question": "q", "context": "c"})
    assert said(read_examples(data, "conversation").examples[1])[0] == ("user", "Wann?")
    with pytest.raises(RowError, match=r"a\.jsonl:3 question: is missing; the fields are answer"):
        read_examples(Data(write("a.jsonl", rows), columns={"question": "q", "context": "c"}), "conversation")


def test_a_later_row_with_both_names_is_refused() -> None:
    rows = [{"body": "a"}, {"body": "b", "text": "c"}]
    with pytest.raises(DataFileError, match=r"^rows\[1\]: columns takes 'text' from 'body', and the row has"):
        read_examples(Data(rows, columns={"text": "body"}), "text")


# Limit


def test_a_limit_reads_the_first_rows_and_says_so(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", texts("a", 5))
    found = read_examples(Data(path, limit=3), "text")
    assert [example.text for example in found.examples] == ["a0", "a1", "a2"]  # type: ignore[union-attr]
    assert found.notes == (f"{path}: limit=3, rows behind these were not read",)
    assert read_examples(Data(path, limit=9), "text").notes == ()


def test_what_is_wrong_behind_the_limit_is_not_seen(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", '{"text": "a"}\n{"text": "b"}\n{"te\n')
    assert len(read_examples(Data(path, limit=2), "text")) == 2
    with pytest.raises(RowError, match="1 row of 3"):
        read_examples(Data(path, limit=3), "text")


def test_a_limit_counts_bad_rows_too(tmp_path: Path, chatml: Any) -> None:
    rows = [{"text": 1}, *texts("a", 5)]
    data = Data(rows, limit=3, on_bad_rows="quarantine")
    report = encode_data(data, None, "text", chatml, LIMITS, tmp_path)["train"].report
    assert (report.rows_read, report.rows_kept, report.dropped_reasons) == (3, 2, {"quarantined": 1})


def test_labels_behind_the_limit_are_not_collected() -> None:
    rows = [{"text": "a", "label": label} for label in ("x", "y", "z")]
    (first, _) = read_examples(Data(rows, limit=2), "conversation").examples
    assert first.gold == {"label": ["x"], "labels": ["x", "y"], "several": False}  # type: ignore[union-attr]


# System


def test_the_system_prompt_is_given_to_dialogues_that_have_none() -> None:
    own = {"messages": [{"role": "system", "content": "mine"}, *chat("a", "b")["messages"]]}
    found = read_examples(
        Data([chat("hi", "yo"), own, chat("c", "d", system="row's")], system="be"), "conversation"
    )
    assert [said(example)[0] for example in found.examples] == [
        ("system", "be"),
        ("system", "mine"),
        ("system", "row's"),
    ]
    assert found.notes == ("rows: 1 of 3 dialogues were given the system prompt of Data(system=...)",)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preference", {"messages": chat("hi", "yo")["messages"], "rejected_response": "no"}),
        ("unpaired", chat("hi", "yo", label=True)),
        ("prompt", {"messages": chat("hi")["messages"]}),
    ],
)
def test_prompts_of_every_kind_are_given_it(kind: Kind, row: Any) -> None:
    (example,) = read_examples(Data([row], system="be"), kind).examples
    assert example.prompt == (Message("system", "be"), Message("user", "hi"))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("text", {"text": "a"}),
        ("conversation", {"prompt": "a", "completion": "b"}),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
        ("prompt", {"prompt": "a"}),
        ("labelled", {"text": "a", "label": 1}),
    ],
)
def test_what_is_no_dialogue_has_no_place_for_it(kind: Kind, row: Any) -> None:
    with pytest.raises(
        RowError, match=r"rows\[0\]: is no dialogue, so Data\(system=...\) has no place in it"
    ):
        read_examples(Data([row], system="be"), kind)


# Lists of sources


def test_a_list_of_files_is_read_one_behind_the_other(
    write: Callable[..., Path], tmp_path: Path, chatml: Any
) -> None:
    first = write("chat.jsonl", [chat("hi", "yo"), chat("a", "b", id=1)])
    second = write("faq.csv", "question,answer\nWo?,Hier.\n")
    found = read_examples([first, Data(second, system="be"), first], "conversation")  # type: ignore[list-item]
    places = ["chat.jsonl:1", "chat.jsonl:2", "faq.csv:2", "chat.jsonl:1", "chat.jsonl:2"]
    assert [example.place for example in found.examples] == places
    assert found.detection.format == "openai_messages, qa"
    assert found.detection.why == "rows have 'messages' with 'role'; rows have 'question' and an answer"
    assert found.source == f"{first}, {second}, {first}"
    assert found.notes == (
        "columns not read: id",
        f"{second}: 1 of 1 dialogues were given the system prompt of Data(system=...)",
        "columns not read: id",
    )
    report = encode_data(Data([first, second]), None, "conversation", chatml, LIMITS, tmp_path / "made")[
        "train"
    ].report
    assert (report.rows_read, report.rows_kept, report.format) == (3, 3, "openai_messages, qa")
    assert report.source == f"{first}, {second}"


def test_a_mixture_is_detected_part_by_part() -> None:
    parts = [Data([chat("a", "b")]), Data([{"question": "a", "answer": "b"}]), Data([chat("c", "d")])]
    found = detect(Data(parts, weights=[1, 1, 1]), "conversation")
    assert found.format == "openai_messages, qa"
    assert found.why == "rows have 'messages' with 'role'; rows have 'question' and an answer"
    with pytest.raises(DataFileError, match="no known format of kind 'conversation' has these fields: text"):
        detect(Data([parts[0], Data(texts("a", 1))]), "conversation")


def test_bad_rows_of_a_list_are_met_as_the_list_says(tmp_path: Path, chatml: Any) -> None:
    good, bad = Data(texts("a", 2)), Data([{"text": "b"}, {"text": 7}])
    with pytest.raises(RowError, match=r"^1 row of 2 cannot be read"):
        read_examples(Data([good, bad]), "text")
    data = Data([good, bad, bad], on_bad_rows="quarantine")
    report = encode_data(data, None, "text", chatml, LIMITS, tmp_path)["train"].report
    assert (report.rows_read, report.rows_kept, report.dropped_reasons) == (6, 4, {"quarantined": 2})
    assert len((tmp_path / "bad_rows.jsonl").read_text().splitlines()) == 2


def test_a_list_of_rows_is_one_source() -> None:
    assert Data(texts("a", 3)).parts() == (Data(texts("a", 3)),)
    assert [str(part) for part in Data(["a.jsonl", Path("b.csv"), Data("c.txt", limit=2)]).parts()] == ["a.jsonl", "b.csv", "c.txt"]  # fmt: skip


def test_data_is_described_for_people() -> None:
    assert described("a.jsonl") == "a.jsonl"
    assert described(texts("a", 3)) == "3 rows in memory"
    assert (
        described(Data("a.csv", format=classification(), limit=5))
        == "a.csv (format='classification', limit=5)"
    )
    assert described(Data(["a.jsonl", "b.csv"], weights=[3, 1])) == "a.jsonl 75% + b.csv 25%"
    assert described(["a.jsonl", Data("b.csv", system="be")]) == "a.jsonl + b.csv (system='be')"
    assert described(_Endless()) == "rows in memory"


class _Endless:
    """Rows of a number that nobody knows before they are read."""

    def __iter__(self) -> Any:
        yield {"text": "a"}


def test_all_parts_have_margins_or_none_has() -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for first, second in (([{**pair, "margin": 1}], [pair]), ([pair], [{**pair, "margin": 1}])):
        with pytest.raises(RowError, match=r"^1 row of 1 .*\nrows\[0\] margin: is \w+ and rows\[0\] has"):
            read_examples(Data([Data(first), Data(second)]), "preference")


def test_classes_of_a_head_are_the_same_in_all_parts() -> None:
    parts = [
        [{"text": "a", "label": one} for one in labels] for labels in (("bad", "good"), ("good", "mixed"))
    ]
    found = read_examples(Data([Data(rows) for rows in parts]), "labelled").examples
    assert [example.labels for example in found] == [(0,), (1,), (1,), (2,)]  # type: ignore[union-attr]
    # as questions they are two tasks, each with its own labels
    found = read_examples(Data([Data(rows) for rows in parts]), "conversation").examples
    assert [example.gold["labels"] for example in found[::3]] == [["bad", "good"], ["good", "mixed"]]  # type: ignore[index,union-attr]


# Mixtures


def trained(folder: Path, tokenizer: Any, *counts: int, **settings: Any) -> tuple[list[str], tuple[str, ...]]:
    """The trained texts of a mixture of a0, a1, ... and b0, b1, ... with nothing held out, and the notes."""
    data = Data([Data(texts(name, count)) for name, count in zip("abc", counts, strict=False)], **settings)
    made = encode_data(data, Data(texts("held", 1)), "text", tokenizer, LIMITS, folder)["train"]
    notes = tuple(note for note in made.report.notes if note.startswith("mixture"))
    return [decoded(made.table, i, tokenizer) for i in range(len(made.table))], notes


def decoded(table: Any, row: int, tokenizer: Any) -> str:
    return str(tokenizer.decode(table.row(row)["input_ids"], skip_special_tokens=True))


def test_without_weights_every_row_is_used_once(tmp_path: Path, chatml: Any) -> None:
    rows, notes = trained(tmp_path, chatml, 3, 2)
    assert rows == ["a0", "a1", "a2", "b0", "b1"]
    assert notes == ()


def test_first_exhausted_stops_where_a_source_ends(tmp_path: Path, chatml: Any) -> None:
    # 6 rows are three quarters of 8, 4 rows one quarter of 16: 8 rows in all, 6 and 2
    rows, notes = trained(tmp_path, chatml, 6, 4, weights=[3, 1])
    # rows of a stand at 1/12, 3/12, ..., 11/12 of the way; of b at 1/4 and 3/4
    assert rows == ["a0", "a1", "b0", "a2", "a3", "a4", "b1", "a5"]
    assert notes == (
        "mixture: rows: 6 of the trained rows, 75%, made of 6; rows: 2 of the trained rows, 25%, made of 4",
    )


def test_all_exhausted_goes_on_until_every_row_was_used(tmp_path: Path, chatml: Any) -> None:
    # 16 rows in all: 12, which is every row of a twice, and the 4 of b
    rows, _ = trained(tmp_path, chatml, 6, 4, weights=[3, 1], interleave="all_exhausted")
    assert Counter(rows) == Counter({f"a{i}": 2 for i in range(6)} | {f"b{i}": 1 for i in range(4)})
    # three rows of a to one of b, anywhere
    assert [sum(row[0] == "b" for row in rows[at : at + 4]) for at in range(0, 16, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("counts", "settings", "expected"),
    [
        # equal shares: 3 of 6, and 10 of which b repeats its first two
        ((5, 3), {"interleave": "first_exhausted"}, {"a": 3, "b": 3}),
        ((5, 3), {"weights": [2, 2], "interleave": "all_exhausted"}, {"a": 5, "b": 5}),
        # 1 row is a tenth of 10: 6, 3 and 1
        ((10, 10, 1), {"weights": [0.6, 0.3, 0.1]}, {"a": 6, "b": 3, "c": 1}),
        # 10 rows are 30 % of 33.3: 20, 10 and 3.3
        (
            (10, 10, 1),
            {"weights": [0.6, 0.3, 0.1], "interleave": "all_exhausted"},
            {"a": 20, "b": 10, "c": 3},
        ),
        # a share of less than a row is one row
        ((10, 10), {"weights": [99, 1]}, {"a": 10, "b": 1}),
        # 3 rows are 1/3 of 9, 7 rows 2/3 of 10.5: 9 rows, 3 and 6; 10.5 rows, 3.5 and 7; halves go to the even
        ((3, 7), {"weights": [1, 2]}, {"a": 3, "b": 6}),
        ((3, 7), {"weights": [1, 2], "interleave": "all_exhausted"}, {"a": 4, "b": 7}),
    ],
)
def test_counts_of_mixtures(counts: Any, settings: Any, expected: Any, tmp_path: Path, chatml: Any) -> None:
    rows, _ = trained(tmp_path, chatml, *counts, **settings)
    assert Counter(row[0] for row in rows) == expected
    for row, times in Counter(
        rows
    ).items():  # a source is gone through from its first row on, again and again
        full, rest = divmod(expected[row[0]], counts["abc".index(row[0])])
        assert times == full + (int(row[1:]) < rest)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": [4, 1]},
        {"weights": [1, 4], "interleave": "all_exhausted"},
        {"interleave": "all_exhausted"},
    ],
)
def test_held_out_rows_are_never_trained(settings: Any, tmp_path: Path, chatml: Any) -> None:
    # 20 rows stand in both sources
    parts = [Data(texts("a", 120)), Data([*texts("a", 20), *texts("b", 60)])]
    made = encode_data(Data(parts, **settings), None, "text", chatml, LIMITS, tmp_path)
    train, held = (
        {decoded(made[name].table, i, chatml) for i in range(len(made[name].table))}
        for name in ("train", "held_out")
    )
    assert len(held) >= 8 and train
    assert train.isdisjoint(held)
    assert made["held_out"].report.rows_read == made["held_out"].report.rows_kept
    if settings.get("interleave") != "first_exhausted" and "weights" not in settings:
        assert train | held == {row["text"] for row in texts("a", 120) + texts("b", 60)}


def test_answers_to_a_held_out_prompt_are_not_trained_from_another_source(
    tmp_path: Path, chatml: Any
) -> None:
    def pairs(answer: str) -> list[dict[str, Any]]:
        return [{"prompt": f"p{i}", "chosen": f"{answer}{i}", "rejected": "no"} for i in range(60)]

    data = Data([Data(pairs("x")), Data(pairs("y"))], weights=[1, 1], interleave="all_exhausted")
    made = encode_data(data, None, "preference", chatml, LIMITS, tmp_path)
    prompts = {
        name: {tuple(part.table.row(i)["prompt_ids"]) for i in range(len(part.table))}
        for name, part in made.items()
    }
    assert prompts["train"] and prompts["held_out"]
    assert prompts["train"].isdisjoint(prompts["held_out"])


def test_the_rows_of_eval_data_are_not_mixed(tmp_path: Path, chatml: Any) -> None:
    held = Data([Data(texts("x", 5)), Data(texts("y", 1))], weights=[1, 1])
    made = encode_data(Data(texts("a", 3)), held, "text", chatml, LIMITS, tmp_path)
    assert len(made["held_out"].table) == 6


# Identity


def identity(source: Any, **settings: Any) -> str:
    return json.dumps(Data(source, **settings).identity(), sort_keys=True)


def test_the_same_data_by_another_name_is_the_same(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("a.jsonl", texts("a", 3))
    (tmp_path / "deeper").mkdir()
    copied = Path(shutil.copy(path, tmp_path / "deeper" / "b.jsonl"))
    plain = identity(path)
    assert plain == identity(str(path)) == identity(copied) == json.dumps(Data.of(path).identity())
    assert plain == identity(path, columns={}, on_bad_rows="error", format=None, limit=None, system=None)
    assert Data.of(Data(path)).identity() == Data(path).identity()
    assert identity([{"a": 1, "b": 2}]) == identity(({"b": 2, "a": 1},))
    assert identity(path, format=classification(["x"])) == identity(path, format=classification(("x",)))
    mixed = identity([path, copied], weights=[1, 3])
    assert mixed == identity([copied, path], weights=[2, 6]) == identity([path, path], weights=(0.25, 0.75))
    assert mixed == identity([path, path], weights=[1, 3], interleave="first_exhausted")
    assert identity([path, path], weights=[1, 1]) == identity([path, path], interleave="first_exhausted")


def test_whatever_changes_the_rows_changes_the_identity(write: Callable[..., Path], tmp_path: Path) -> None:
    a, b = write("a.jsonl", texts("a", 3)), write("b.jsonl", texts("b", 3))
    rows = texts("a", 3)
    different = [
        identity(a),
        identity(b),
        identity(rows),
        identity(rows[::-1]),
        identity(rows[:2]),
        identity([*rows[:2], {"text": "a2", "id": None}]),
        identity(a, limit=2),
        identity(a, limit=3),
        identity(a, system="be"),
        identity(a, system="be "),
        identity(a, columns={"text": "body"}),
        identity(a, columns={"body": "text"}),
        identity(a, format="text"),
        identity(a, format="qa"),
        identity(a, format=classification()),
        identity(a, format=classification(["x", "y"])),
        identity(a, format=classification(["y", "x"])),
        identity(a, format=classification(instruction="Which?")),
        identity(a, format=translation("en", "de")),
        identity(a, format=translation("de", "en")),
        identity(a, on_bad_rows="quarantine"),
        identity([a, b]),
        identity([b, a]),
        identity([a, b, b]),
        identity([a, Data(b, limit=2)]),
        identity([a, b], on_bad_rows="quarantine"),
        identity([a, Data(b, on_bad_rows="quarantine")]),
        identity([a, b], weights=[1, 1]),
        identity([a, b], weights=[1, 2]),
        identity([b, a], weights=[1, 2]),
        identity([a, b], weights=[1, 2], interleave="all_exhausted"),
        identity([a, b], interleave="all_exhausted"),
    ]
    twice = [one for one, times in Counter(different).items() if times > 1]
    assert twice == []
    assert len(different) == 32


def test_the_same_bytes_as_another_type_of_file_are_other_rows(write: Callable[..., Path]) -> None:
    content = '{"text": "a"}\n'
    names = ("a.jsonl", "a.txt", "a.csv")
    assert len({identity(write(name, content)) for name in names}) == len(names)
    assert identity(write("a.jsonl", content)) == identity(write("B.JSONL", content))


def test_the_identity_of_a_file_follows_its_bytes_and_can_be_remembered(write: Callable[..., Path]) -> None:
    path = write("a.jsonl", texts("a", 3))
    before = identity(path)
    write("a.jsonl", texts("a", 2))
    assert identity(path) != before
    asked: list[Path] = []

    def remember(file: Path) -> str:
        asked.append(file)
        return "sha"

    assert Data([path, Data(path, limit=1)]).identity(remember) == [
        "sha.jsonl",
        {"source": "sha.jsonl", "limit": 1},
    ]
    assert asked == [path, path]
