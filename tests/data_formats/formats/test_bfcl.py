"""Calls against possible answers: by hand, and against the leaderboard's own checker where it is installed."""

import copy
import importlib.util
import json
import random
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from posttrain.data_formats import Data, bfcl, read_examples
from posttrain.data_formats.formats.bfcl import bfcl_metric
from posttrain.data_formats.scoring.metrics import Answer
from posttrain.data_formats.scoring.possible_calls import are_possible
from posttrain.errors import DataFileError, RowError

WEATHER = {
    "name": "weather.now",
    "description": "The weather.",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "least": {"type": "float"},
            "hours": {"type": "array", "items": {"type": "integer"}},
            "place": {"type": "dict"},
        },
        "required": ["city"],
    },
}
POSSIBLE = {
    "weather.now": {
        "city": ["New York", "NYC"],
        "days": [3, ""],
        "least": [1.0, ""],
        "hours": [[6, 18], ""],
        "place": [{"zip": ["10001"], "street": ["5th", ""]}, ""],
    }
}
ROW = {
    "question": [[{"role": "user", "content": "How will the weather be?"}]],
    "function": [WEATHER],
    "ground_truth": [POSSIBLE],
}


def possible(*arguments: dict[str, Any], name: str = "weather.now") -> bool:
    calls = [{"name": name, "arguments": each} for each in arguments]
    return are_possible(calls, [WEATHER], [POSSIBLE] * max(1, len(arguments)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"city": "NYC"},
        {"city": "new-york"},  # case, spaces and some signs do not count
        {"city": "NYC", "days": 3, "least": 1, "hours": [6, 18]},  # an int is as good as a float
        {"city": "NYC", "place": {"zip": "10001"}},
        {"city": "NYC", "place": {"zip": "10001", "street": "5TH"}},
    ],
)
def test_what_is_possible(arguments: dict[str, Any]) -> None:
    assert possible(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},  # a required one is missing
        {"city": "Boston"},
        {"city": "NYC", "days": "3"},
        {"city": "NYC", "days": 3.0},  # a float is no int
        {"city": "NYC", "days": True},
        {"city": "NYC", "unit": "C"},  # not among the parameters
        {"city": "NYC", "hours": [18, 6]},
        {"city": "NYC", "hours": [6, 18.5]},
        {"city": "NYC", "place": {"street": "5th"}},
        {"city": "NYC", "place": {"zip": "10001", "door": 1}},
        {"city": ["NYC"]},
    ],
)
def test_what_is_not(arguments: dict[str, Any]) -> None:
    assert not possible(arguments)


def test_calls_may_come_in_any_order_and_each_counts_once() -> None:
    paris = {"weather.now": {"city": ["Paris"]}}
    first, second = (
        {"name": "weather.now", "arguments": {"city": "NYC"}},
        {"name": "weather.now", "arguments": {"city": "Paris"}},
    )
    assert are_possible([second, first], [WEATHER], [POSSIBLE, paris])
    assert not are_possible([first, first], [WEATHER], [POSSIBLE, paris])
    assert not are_possible([first], [WEATHER], [POSSIBLE, paris])
    assert not possible({"city": "NYC"}, name="weather")


def test_a_row_becomes_a_dialogue_that_is_answered_rightly() -> None:
    examples = read_examples(Data([ROW]), "conversation")
    assert examples.detection.format == "bfcl"
    (example,) = examples.examples
    (call,) = example.messages[-1].calls
    assert call.as_dict() == {"name": "weather.now", "arguments": {"city": "New York"}}
    assert example.tools[0]["function"]["parameters"]["properties"]["least"]["type"] == "number"
    right = Answer(f"<tool_call>{json.dumps(call.as_dict())}</tool_call>", True)
    wrong = Answer(right.text.replace("New York", "Boston"), False)
    assert bfcl_metric([example.gold] * 2, [right, wrong]) == {"call_accuracy": 0.5, "stop_rate": 0.5}


def test_rows_that_cannot_be_read_name_the_field() -> None:
    two = {"f": {}, "g": {}}
    for row, words in (
        ({**ROW, "ground_truth": [two]}, r"ground_truth\[0\]: has 2 names and must have one"),
        ({**ROW, "question": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]}, "does not end with the user"),
        ({**ROW, "ground_truth": [{"tides": {}}]}, r"ground_truth\[0\]: is of 'tides', which is none of the functions"),
        ({**ROW, "function": [{"name": "f", "parameters": {"properties": {"a": {"type": "Date"}}}}]}, "has the type 'Date'"),
        ({**ROW, "ground_truth": [{"weather.now": {"city": "NYC"}}]}, r"ground_truth\[0\]\.weather\.now\.city"),
    ):  # fmt: skip
        with pytest.raises(RowError, match=words):
            read_examples(Data([row]), "conversation")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    with pytest.raises(DataFileError, match="pip install --no-deps bfcl-eval"):
        bfcl("simple_python")


CATEGORIES = [
    f"{live}{kind}"
    for live in ("", "live_")
    for kind in ("simple", "multiple", "parallel", "parallel_multiple")
]
CATEGORIES[0] = "simple_python"
JUNK = ["x", 1, 2.5, True, None, [], {}, ["a"], [1], {"a": 1}, "", [{"a": 1}], 0, 1.0, "True"]


def their_checker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ast_checker`, with stand-ins for what it imports and does not need for Python."""
    for name in ("tree_sitter", "tree_sitter_java", "tree_sitter_javascript"):
        module = ModuleType(name)
        for part in ("Language", "Parser", "language"):
            setattr(module, part, lambda *_, **__: None)
        monkeypatch.setitem(sys.modules, name, module)
    config = ModuleType("bfcl_eval.constants.model_config")
    config.MODEL_CONFIG_MAPPING = {"ours": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, config.__name__, config)
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(category: str, row: Any, calls: Any) -> Any:
        theirs = [{call["name"]: copy.deepcopy(call["arguments"])} for call in calls]
        try:
            return ast_checker(
                row["function"], theirs, row["ground_truth"], Language.PYTHON, category, "ours"
            )["valid"]
        except Exception:
            return False

    return check


def mutated(calls: Any, draw: random.Random) -> Any:
    calls = copy.deepcopy(calls)
    call = draw.choice(calls)
    given = call["arguments"]
    name = draw.choice(list(given)) if given else None
    kind = draw.randrange(8)
    if kind == 0:
        calls.append(copy.deepcopy(call))
    elif kind == 1:
        calls.remove(call)
    elif kind == 2:
        given["unheard_of"] = 1
    elif name is None:
        call["name"] += "x"
    elif kind == 3:
        del given[name]
    elif kind == 4:
        given[name] = str(given[name]).upper()
    elif kind == 5 and isinstance(given[name], list) and given[name]:
        given[name][0] = draw.choice(JUNK)
    elif kind == 6 and isinstance(given[name], dict) and given[name]:
        given[name][next(iter(given[name]))] = draw.choice(JUNK)
    else:
        given[name] = draw.choice(JUNK)
    return calls


@pytest.mark.skipif(importlib.util.find_spec("bfcl_eval") is None, reason="bfcl-eval is not installed")
def test_it_agrees_with_the_leaderboards_checker_on_all_python_items(monkeypatch: pytest.MonkeyPatch) -> None:
    check, draw = their_checker(monkeypatch), random.Random(0)
    items = accepted = 0
    for category in CATEGORIES:
        for row in bfcl(category):
            (example,) = read_examples([row], "conversation").examples
            right = [call.as_dict() for call in example.messages[-1].calls]
            for calls in (right, *(mutated(right, draw) for _ in range(4))):
                ours = are_possible(calls, row["function"], row["ground_truth"])
                assert ours == check(category, row, calls), (category, calls, row["ground_truth"])
                accepted += ours
            items += 1
    assert items == 2351
    assert accepted > 2300
