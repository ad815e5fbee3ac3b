"""Held-out rows are asked before and after SFT, and judged by the metric of their format."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain import SFT, Data, Full, LoRA
from posttrain.data_formats import Conversation, DataFormat, Message, classification
from tests.stages.words import WORDS

Rows = list[dict[str, Any]]


def labelled(first: int, count: int) -> Rows:
    """Two words; the label says whether the river is one of them."""
    pairs = list(itertools.product(WORDS[:8], repeat=2))[first : first + count]
    return [{"text": f"{a} {b}", "label": "moon" if "river" in (a, b) else "sun"} for a, b in pairs]


def split() -> tuple[Rows, Rows]:
    rows = labelled(0, 64)
    return rows[::2] * 6, rows[1::2]


def test_a_classifier_by_words_is_measured_by_its_labels(words: Callable[..., Any]) -> None:
    train, held_out = split()
    format_ = classification(labels=["sun", "moon"], instruction="old new")
    stage = SFT(
        Full(),
        data=Data(train, format=format_),
        eval_data=Data(held_out, format=format_),
        learning_rate=3e-3,
        max_steps=120,
        batch_size=16,
        trainer_args={"lr_scheduler_type": "constant"},
    )
    run = words([stage]).run()
    metrics = run["sft"].metrics
    # 32 held-out rows, 7 of them with the river: "sun" for all is 25 of 32, with a macro-F1 of 0.44
    assert metrics["accuracy_before"] < 0.5
    assert metrics["accuracy_after"] > 0.9
    assert metrics["macro_f1_after"] > 0.8
    assert metrics["unknown_after"] == 0
    (written,) = run.folder.rglob("answers.json")
    kept = json.loads(written.read_text())
    assert kept["before"]["accuracy"] == metrics["accuracy_before"]
    table = kept["after"]["confusion"]
    assert table["columns"] == ["sun", "moon", "unknown"]
    asked = len(kept["after"]["answers"])
    assert sum(map(sum, table["rows"].values())) == asked
    assert (table["rows"]["sun"][0] + table["rows"]["moon"][1]) / asked == metrics["accuracy_after"]
    assert kept["after"]["answers"][0]["gold"]["labels"] == ["sun", "moon"]


def test_a_dialogue_is_measured_by_whether_answers_stop(words: Callable[..., Any]) -> None:
    draw = itertools.cycle(WORDS[:19])
    rows = [
        {"prompt": f"{next(draw)} {next(draw)} {next(draw)}", "completion": f"{next(draw)} {next(draw)} ."}
        for _ in range(200)
    ]
    stage = SFT(
        Full(), data=rows, learning_rate=3e-3, max_steps=60, batch_size=16,
        trainer_args={"lr_scheduler_type": "constant"},
    )  # fmt: skip
    metrics = words([stage]).run()["sft"].metrics
    assert metrics["stop_rate_before"] < 0.6
    assert metrics["stop_rate_after"] > 0.9


def test_quarantined_rows_lie_in_the_stages_folder(words: Callable[..., Any], tmp_path: Path) -> None:
    good = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[:6], repeat=2)]
    path = tmp_path / "rows.jsonl"
    lines = [*map(json.dumps, good), '{"prompt": "a", "completion": ""}', '{"prompt": "a",']
    path.write_text("\n".join(lines) + "\n")
    run = words([SFT(LoRA(r=2), data=Data(path, on_bad_rows="quarantine"), max_steps=1)]).run()
    record = run["sft"]
    assert record.data["rows_read"] == 38 and record.data["dropped_reasons"] == {"quarantined": 2}
    (written,) = run.folder.rglob("bad_rows.jsonl")
    bad = [json.loads(line) for line in written.read_text().splitlines()]
    assert [(row["place"], row["field"]) for row in bad] == [
        ("rows.jsonl:37", "completion"),
        ("rows.jsonl:38", ""),
    ]
    assert bad[0]["row"] == {"prompt": "a", "completion": ""} and bad[1]["row"] == '{"prompt": "a",'


def test_unchanged_data_is_not_read_again(words: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[:6], repeat=2)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    first = words([SFT(LoRA(r=2), data=path, max_steps=1, max_length=77)]).run()["sft"].data
    again = words([SFT(LoRA(r=2), data=path, max_steps=2, max_length=77)], "again").run()["sft"].data
    assert first["table"] == again["table"]
    assert again["origin"].endswith("found in the cache, the data is unchanged")


def test_a_mixture_is_trained_by_its_shares(words: Callable[..., Any]) -> None:
    one = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[:7], repeat=2)]
    other = [
        {"instruction": f"{a} {b}", "output": "moon ."} for a, b in itertools.product(WORDS[8:12], repeat=2)
    ]
    mixture = Data([Data(one), Data(other)], weights=[0.5, 0.5], interleave="first_exhausted")
    data = words([SFT(LoRA(r=2), data=mixture, max_steps=1)]).run()["sft"].data
    assert data["format"] == "prompt_completion, alpaca"
    assert any(line.startswith("mixture: rows: ") for line in data["notes"])
    # every row of the smaller source that is not held out, and as many of the other
    assert data["rows_kept"] % 2 == 0 and 2 * 8 <= data["rows_kept"] <= 2 * 16
    left_out = data["dropped_reasons"]["left out by the mixture's shares"]
    assert data["rows_kept"] + left_out + data["rows_held_out"] == data["rows_read"] == len(one) + len(other)


def test_calls_of_tools_are_judged_though_the_dialogue_goes_on(tiny: Callable[..., Any]) -> None:
    tool = {"name": "boat", "parameters": {"type": "object", "properties": {"on": {"type": "string"}}}}
    rows = [
        {
            "tools": [tool],
            "messages": [
                {"role": "user", "content": f"{a} {b}"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "boat", "arguments": {"on": a}}}]},
                {"role": "tool", "content": "runs"},
                {"role": "assistant", "content": "sun ."},
            ],
        }
        for a, b in itertools.product(WORDS[:6], repeat=2)
    ]
    metrics = tiny([SFT(LoRA(r=2), data=rows, max_steps=1)]).run()["sft"].metrics
    # what it says without training calls nothing
    assert (metrics["call_match_before"], metrics["call_name_match_before"]) == (0, 0)
    assert "valid_calls_after" in metrics


def test_a_format_of_ones_own_judges_without_being_registered(words: Callable[..., Any]) -> None:
    def read(row: Any, place: str) -> Conversation:
        messages = (Message("user", row["ask"]), Message("assistant", row["say"]))
        return Conversation(place, messages, gold={"say": row["say"]})

    own = DataFormat(
        name="ask_say", kind="conversation", shape='{"ask", "say"}', columns=("ask", "say"), detect=lambda row: "ask" in row,
        why="rows have 'ask'", to_example=read, metric=lambda golds, answers: {"asked": len(golds), "of": "words"},
    )  # fmt: skip
    rows = [{"ask": f"{a} {b}", "say": "sun ."} for a, b in itertools.product(WORDS[:6], repeat=2)]
    metrics = words([SFT(LoRA(r=2), data=Data(rows, format=own), max_steps=1)]).run()["sft"].metrics
    assert metrics["asked_before"] == metrics["asked_after"] >= 8


def test_quarantined_rows_of_eval_data_are_kept_too(words: Callable[..., Any]) -> None:
    good = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[:6], repeat=2)]
    eval_data = Data([*good[:9], {"prompt": "a", "completion": ""}], on_bad_rows="quarantine")
    run = words([SFT(LoRA(r=2), data=good, eval_data=eval_data, max_steps=1)]).run()
    (written,) = run.folder.rglob("*bad_rows.jsonl")
    assert (written.name, json.loads(written.read_text())["place"]) == ("eval_bad_rows.jsonl", "rows[9]")
