"""Rewards that compare with the row: the same judgement as the metrics of held-out rows."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from posttrain import GRPO, LoRA, accuracy_reward, function_call_reward
from posttrain.errors import RewardError
from tests.stages.words import WORDS

CALL = {"name": "weather", "arguments": {"city": "Paris", "days": 2}}


def tagged(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_an_answer_is_right_as_exact_match_has_it() -> None:
    completions = ["The Paris.", "2 + 2 = 4 #### 4", "5", "Rome"]
    answer = ["paris", "so #### 4", "4", None]
    answers = [None, None, None, ["Oslo", "Rome"]]
    assert accuracy_reward([""] * 4, completions, answer=answer, answers=answers) == [1.0, 1.0, 0.0, 1.0]


def test_calls_are_compared_as_what_they_say() -> None:
    completions = [
        tagged("weather", days=2.0, city="Paris"),
        tagged("weather", city="Paris"),
        tagged("weather", city="Paris", days=2) + "<tool_call>{oops",
        "Paris, 2 days",
    ]
    assert function_call_reward([""] * 4, completions, calls=[[CALL]] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_rows_without_an_answer_are_an_error() -> None:
    with pytest.raises(ValueError, match="no column 'answer' or 'answers'"):
        accuracy_reward(["a"], ["b"], answer=[None])
    for columns in ({}, {"calls": [None]}, {"calls": [[]]}):
        with pytest.raises(ValueError, match="a row has no calls"):
            function_call_reward(["a"], ["b"], **columns)


def test_they_judge_the_answers_of_a_stage(words: Callable[..., Any]) -> None:
    """The dialogue's own last turn is what its answers are compared with."""

    def stage(reward: Any, steps: int) -> GRPO:
        turns = [
            [{"role": "user", "content": word}, {"role": "assistant", "content": "river"}] for word in WORDS
        ]
        return GRPO(
            LoRA(r=4), reward=reward, data=[{"messages": each} for each in turns], max_steps=steps, batch_size=16,
            num_generations=16, max_new_tokens=1, max_length=32, learning_rate=2e-2,
        )  # fmt: skip

    metrics = words([stage(accuracy_reward, 12)], "right").run()["grpo"].metrics
    assert metrics["reward_before"] < 0.2 and metrics["reward_after"] == 1.0
    with pytest.raises(RewardError, match="a row has no calls to compare with"):
        words([stage(function_call_reward, 1)], "calls").run()
