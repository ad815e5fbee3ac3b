"""A reward function's numbers are checked at every call, and what is wrong is said in one sentence."""

from typing import Any

import pytest

from posttrain.errors import RewardError, SettingError
from posttrain.stages.online.rewards import Answered, RewardModelRef, call_function, check_source, identity_of

ANSWERED = Answered([[1], [2]], [[3], [4]], ["a", "b"], ["yes", "no"], {"answer": ["yes", None]})


def test_a_function_is_given_prompts_completions_and_columns() -> None:
    def right(prompts: list[Any], completions: list[str], answer: list[Any]) -> list[float]:
        assert prompts == ["a", "b"]
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert call_function(right, ANSWERED) == [1.0, 0.0]


def test_arrays_ints_and_truth_values_are_numbers() -> None:
    import numpy

    for values in (numpy.array([1.0, 0.5]), [1, 0], [True, False], (0.5, 0.25)):
        given = call_function(lambda prompts, completions, values=values, **_: values, ANSWERED)
        assert given == [float(value) for value in values]
        assert all(type(value) is float for value in given)


def raises(**_: Any) -> list[float]:
    raise KeyError("tests")


@pytest.mark.parametrize(
    ("gives", "text"),
    [
        ([1.0], "gave 1 numbers for 2 completions"),
        ([1.0, float("nan")], r"gave nan for completion 1 \('no'\)"),
        ([float("inf"), 1.0], "gave inf for completion 0"),
        ([1.0, "good"], "gave 'good' for completion 1, a str"),
        ([1.0, None], "gave None for completion 1"),
        (None, "gave a NoneType; it must give a list of 2 numbers"),
        ("12", "gave a str"),
        (0.5, "gave a float"),
    ],
)
def test_what_is_no_reward(gives: Any, text: str) -> None:
    def judge(prompts: Any, completions: Any, **_: Any) -> Any:
        return gives

    with pytest.raises(RewardError, match=text) as caught:
        call_function(judge, ANSWERED)
    assert "The reward function judge" in str(caught.value)


def test_a_function_that_raises_is_named_with_its_error() -> None:
    def judge(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return raises()

    with pytest.raises(RewardError, match="The reward function judge raised KeyError: 'tests'"):
        call_function(judge, ANSWERED)


def test_sources() -> None:
    check_source("PPO", len)
    check_source("PPO", RewardModelRef("runs/x"))
    for source in (3, "runs/x", dict):
        with pytest.raises(SettingError, match="a reward is a function"):
            check_source("PPO", source)


def test_a_function_has_the_same_run_folder_in_every_process() -> None:
    import subprocess
    import sys

    code = (
        "from posttrain import *\n"
        "def judge(prompts, completions): return [1.0] * len(prompts)\n"
        "print(Pipeline([PPO(LoRA(), reward=judge)]).run_dir)"
    )
    folders = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(folders) == 1


def test_a_changed_function_is_another_one() -> None:
    def make(text: str) -> Any:
        space: dict[str, Any] = {}
        exec(compile(text, "<made>", "exec"), space)
        return space["judge"]

    def first(prompts: Any, completions: Any) -> list[float]:
        return [1.0]

    def second(prompts: Any, completions: Any) -> list[float]:
        return [2.0]

    second.__qualname__ = first.__qualname__
    assert identity_of(first) == identity_of(first)
    assert identity_of(first) != identity_of(second)
    made = make("def judge(prompts, completions): return [1.0]")
    assert identity_of(made)["function"].endswith("judge")
