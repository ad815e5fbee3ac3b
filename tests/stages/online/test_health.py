"""What runs away raises an alarm; what goes well raises none."""

import contextlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from posttrain import PPO, LoRA, Pipeline
from posttrain.errors import TrainingDivergedError
from posttrain.stages.online.health import alarms, correlation, repetition
from tests.stages.words import rivers

Rows = list[dict[str, Any]]
CALM: dict[str, Any] = {"max_length": 40, "max_new_tokens": 12, "batch_size": 64, "max_steps": 12}
WILD = CALM | {"learning_rate": 3e-3, "kl_coef": 0.01}


def by_length(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [len(text.split()) / 12 for text in completions]


def by_brevity(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [-len(text.split()) / 12 for text in completions]


def likes_one_word(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("moon") / 12 for text in completions]


def likes_repetition(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [sum(a == b for a, b in pairwise(text.split())) / 12 for text in completions]


def constant(prompts: Any, completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


HACKS: list[tuple[str, Any, dict[str, Any]]] = [
    ("pays for length", by_length, WILD),
    ("pays for brevity", by_brevity, WILD),
    ("pays for one word", likes_one_word, WILD),
    ("pays for repetition", likes_repetition, WILD),
    ("a constant reward", constant, WILD),
    ("no penalty", likes_one_word, WILD | {"kl_coef": 0.0}),
    ("100 times the learning rate", rivers, CALM | {"learning_rate": 3e-2}),
    ("a critic of noise", rivers, WILD | {"trainer_args": {"critic_learning_rate": 0.5}}),
    (
        "the sign turned round",
        lambda prompts, completions, **_: [-r for r in by_length(prompts, completions)],
        WILD,
    ),
    (
        "many passes over one rollout",
        rivers,
        WILD | {"trainer_args": {"num_ppo_epochs": 16, "stop_kl": 100.0}},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("reward", "settings"), [h[1:] for h in HACKS], ids=[h[0] for h in HACKS])
def test_a_planted_hack_raises_an_alarm(
    words: Callable[..., Pipeline], prompts: Rows, reward: Any, settings: dict[str, Any]
) -> None:
    pipeline = words([PPO(LoRA(r=8), data=prompts, reward=reward, **settings)])
    with contextlib.suppress(TrainingDivergedError):  # one that ends in silence has been stopped as well
        pipeline.run()
    (raised,) = pipeline.run_dir.glob("stages/*/alarms.jsonl")
    assert raised.read_text()


def test_a_second_judge_sees_that_the_reward_is_hacked(words: Callable[..., Pipeline], prompts: Rows) -> None:
    def variety(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        return [len(set(text.split())) / max(1, len(text.split())) for text in completions]

    settings = WILD | {"max_steps": 8}
    run = words([PPO(LoRA(r=8), data=prompts, reward=likes_one_word, judge=variety, **settings)]).run()
    history = run["ppo"].history
    assert history[-1]["judge"] < history[0]["judge"]
    assert all(line["reward"] == line["reward/likes_one_word"] for line in history)  # watched, not added
    assert "the second judge's falls" in (run["ppo"].folder / "alarms.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_clean_run_raises_none(words: Callable[..., Pipeline], prompts: Rows, seed: int) -> None:
    """It moves, held by the penalty."""
    stage = PPO(LoRA(r=8), data=prompts, reward=rivers, **(CALM | {"learning_rate": 1e-3, "kl_coef": 0.1}))
    run = words([stage], seed=seed).run()
    assert run["ppo"].metrics["alarms"] == 0
    assert not (run["ppo"].folder / "alarms.jsonl").exists()
    line = run["ppo"].history
    assert line[-1]["kl"] > 0.01  # it did move


def test_repetition() -> None:
    assert repetition([[1, 2, 3, 4]]) == 0.0
    assert repetition([[5, 5, 5, 5]]) == pytest.approx(2 / 3)
    assert repetition([[1, 2, 1, 2, 1], [1, 2, 3]]) == pytest.approx((0.5 + 0.0) / 2)
    assert repetition([[], [1], [1, 2]]) == 0.0


def test_correlation() -> None:
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert math.isnan(correlation([1.0, 1.0], [1.0, 2.0]))


def test_missing_numbers_raise_nothing() -> None:
    assert alarms([{}, {"kl": None, "kl_per_token": math.nan}] * 5) == []
