"""The recipes' data are made by the script in the repository, and nothing held out was trained on."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from posttrain.data_formats.examples import Message
from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.pipeline.base_models import find_base, shared_tokenizer
from posttrain.recipes.style_tuning import courteous

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, FOLDER = ROOT / "scripts" / "recipe_data", ROOT / "recipes" / "data"


def part(name: str) -> dict[str, Any]:
    """The names of one module of the script."""
    sys.path.insert(0, str(SCRIPT))
    try:
        return runpy.run_path(str(SCRIPT / f"{name}.py"))
    finally:
        sys.path.remove(str(SCRIPT))


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


def both(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return rows(name), rows(f"{name}_heldout")


def test_the_script_makes_the_packaged_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert len(made) == 22


def spans(listed: list[dict[str, Any]]) -> set[str]:
    return {row["text"][span["start"] : span["end"]] for row in listed for span in row["spans"]}


def test_extraction_holds_out_names_parts_and_dates() -> None:
    trained, held_out = both("extraction")
    assert len(spans(trained)) > 60 and len(spans(held_out)) > 20
    assert not spans(trained) & spans(held_out)
    without = {tuple(_blanked(row)) for row in trained} & {tuple(_blanked(row)) for row in held_out}
    assert not without  # no wording is in both


def _blanked(row: dict[str, Any]) -> list[str]:
    """The sentence without what it names."""
    parts, at = [], 0
    for span in row["spans"]:
        parts.append(row["text"][at : span["start"]])
        at = span["end"]
    return [*parts, row["text"][at:]]


@pytest.mark.parametrize(("name", "field"), [("classification", "text")])
def test_no_held_out_text_is_trained_on(name: str, field: str) -> None:
    trained, held_out = both(name)
    assert not {row[field] for row in trained} & {row[field] for row in held_out}
    assert len({row[field] for row in trained}) == len(trained)


def test_classification_has_all_labels_in_both_parts() -> None:
    trained, held_out = both("classification")
    labels = {row["label"] for row in trained}
    assert len(labels) == 3 and labels == {row["label"] for row in held_out}


def test_held_out_calls_are_of_tools_that_training_has_not_seen() -> None:
    def tools(name: str) -> set[str]:
        return {tool["function"]["name"] for row in rows(name) for tool in row["tools"]}

    assert len(tools("calls")) == 20 and len(tools("calls_heldout")) == 8
    assert not tools("calls") & tools("calls_heldout")
    trained, held_out = ({row["prompt"][0]["content"] for row in part} for part in both("call_pairs"))
    assert not any(f'"{name}"' in said for said in trained for name in tools("calls_heldout"))
    assert not any(f'"{name}"' in said for said in held_out for name in tools("calls"))
    assert all(row["chosen"] != row["rejected"] for row in rows("call_pairs") + rows("call_pairs_heldout"))


def test_pairs_ask_in_the_words_of_the_calls() -> None:
    """A model whose template knows no tools is asked the same in both stages."""
    script = part("calls")
    tools = [script["declared"](tool) for tool in script["TOOLS"]["calls"][:2]]
    said = script["_TOOLS_SAID"].format(tools="\n".join(map(json.dumps, tools)))
    template = ChatTemplate.of(shared_tokenizer(find_base("tiny-random").folder))
    asked = Message("user", "Is it ready?")
    declared = template.with_tools(tools).prompt([asked])
    assert declared == template.prompt([Message("system", said), asked])


def test_held_out_days_are_other_pairs_in_other_words() -> None:
    """Learning the trained pairs by heart gives no held-out answer, and all answers are right."""
    names = part("days")["DAYS"]

    def asked(row: dict[str, Any]) -> tuple[str, int]:
        today = min(names, key=lambda day: row["question"].find(day) % 1000)
        return today, int(next(word for word in row["question"].split() if word.isdigit()))

    trained, held_out = both("days")
    assert (len(trained), len(held_out)) == (184, 36)
    assert not {asked(row) for row in trained} & {asked(row) for row in held_out}
    assert (
        {far for _, far in map(asked, trained)} == {far for _, far in map(asked, held_out)} == {2, 3, 4, 5, 6}
    )
    for row in trained + held_out:
        today, far = asked(row)
        counted, _, last = row["answer"].rpartition("#### ")
        assert last == names[(names.index(today) + far) % 7]
        assert counted in (
            "",
            ", ".join(f"{i} {names[(names.index(today) + i) % 7]}" for i in range(1, far + 1)) + " ",
        )
    assert sum(row["answer"].startswith("1 ") for row in trained) == 46  # one in four


def test_what_is_asked_of_held_out_facts_only_documents_tell() -> None:
    """No trained question is about a held-out fact or worded as a held-out one, and every document tells four facts."""
    script = part("catalogue")
    known = {
        (bike, script["sentence"](script["ANSWERS"][fact], bike, value))
        for bike, values in script["BIKES"].items()
        for fact, value in zip(script["FACTS"], values, strict=True)
    }
    trained, held_out = both("catalogue_questions")
    told = [{row["answer"] for row in each} for each in (trained, held_out)]
    assert [len(each) for each in told] == [20, 20] and not told[0] & told[1]
    assert told[0] | told[1] == {answer for _, answer in known}
    assert len(trained) == 100 and len(held_out) == 40

    def wordings(name: str) -> set[str]:
        return {wording for each in script["ASKS"][name].values() for wording in each}

    assert not wordings("catalogue_questions") & wordings("catalogue_questions_heldout")
    documents = [row["text"] for each in both("catalogue") for row in each]
    assert len(documents) == 260
    for text in documents:
        (values,) = [values for bike, values in script["BIKES"].items() if bike in text]
        assert all(value in text for value in values)


def test_the_tone_is_on_one_side_of_each_pair() -> None:
    asked = [
        {turn["content"] for row in each for turn in row["messages"] if turn["role"] == "user"}
        for each in both("tone")
    ]
    assert len(asked[0]) == 40 and len(asked[1]) == 24 and not asked[0] & asked[1]
    answers = [[row["messages"][-1]["content"] for row in rows("tone")]]
    answers += [[row[side][0]["content"] for row in rows("tone_pairs")] for side in ("chosen", "rejected")]
    assert [fmean(courteous([""] * len(each), each)) for each in answers] == [1.0, 1.0, 0.0]


def test_held_out_translations_have_known_words_in_new_sentences() -> None:
    trained, held_out = ([row["translation"] for row in part] for part in both("translation"))
    assert not {row["German"] for row in trained} & {row["German"] for row in held_out}
    known = {word.strip(".?").lower() for row in trained for word in row["German"].split()}
    unknown = {word.strip(".?").lower() for row in held_out for word in row["German"].split()} - known
    assert not unknown
