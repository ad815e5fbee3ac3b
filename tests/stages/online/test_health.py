"""What runs away raises an alarm; what goes well raises none."""

import contextlib
import math
import random
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import pytest

from posttrain import PPO, LoRA, Pipeline
from posttrain.errors import TrainingDivergedError
from posttrain.stages.online.health import alarms, correlation, repetition, standard_error
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


def split(prompts: Rows, seed: int) -> dict[str, Rows]:
    """24 prompts to train on and 8 held out."""
    drawn = random.Random(seed).sample(prompts, len(prompts))
    return {"data": drawn[8:], "eval_data": drawn[:8]}


SPLITS = 5  # each hack and each clean seed meets one of them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "settings", "seed"),
    [(*hack[1:], number % SPLITS) for number, hack in enumerate(HACKS)],
    ids=[hack[0] for hack in HACKS],
)
def test_a_planted_hack_raises_an_alarm(
    words: Callable[..., Pipeline], prompts: Rows, reward: Any, settings: dict[str, Any], seed: int
) -> None:
    pipeline = words([PPO(LoRA(r=8), reward=reward, **split(prompts, seed), **settings)], seed=seed)
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
    settings = CALM | split(prompts, seed % SPLITS) | {"learning_rate": 1e-3, "kl_coef": 0.1}
    stage = PPO(LoRA(r=8), reward=rivers, **settings)
    run = words([stage], seed=seed).run()
    assert run["ppo"].metrics["alarms"] == 0
    assert not (run["ppo"].folder / "alarms.jsonl").exists()
    line = run["ppo"].history
    assert line[-1]["kl"] > 0.01  # it did move


def test_repetition() -> None:
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([5, 5, 5, 5]) == pytest.approx(2 / 3)
    assert repetition([1, 2, 1, 2, 1]) == pytest.approx(0.5)
    assert [repetition(ids) for ids in ([], [1], [1, 2])] == [0.0, 0.0, 0.0]


def test_standard_error() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(standard_error([1.0]))


def test_correlation() -> None:
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert math.isnan(correlation([1.0, 1.0], [1.0, 2.0]))


def test_missing_numbers_raise_nothing() -> None:
    assert alarms([]) == []
    assert alarms([{}, {"kl": None, "kl_per_token": math.nan}] * 5) == []


def still(
    draw: random.Random, answers: int, changed: dict[str, float] | None = None
) -> dict[str, float | None]:
    """A step of a policy that does not change: lengths, stops, repetition, judge and reward of independent answers."""
    at = {"length": 20.0, "stopped": 0.2, "repetition": 0.3, "judge": 0.5, "reward": 0.5} | (changed or {})
    columns = {name: [draw.gauss(mean, 0.4 * mean) for _ in range(answers)] for name, mean in at.items()}
    columns["stopped"] = [float(draw.random() < at["stopped"]) for _ in range(answers)]
    line: dict[str, float | None] = {name: fmean(column) for name, column in columns.items()}
    line |= {f"{name}_se": standard_error(column) for name, column in columns.items()}
    r = correlation(columns["reward"], columns["length"])
    return line | {
        "answers": float(answers), "reward_std": pstdev(columns["reward"]), "reward_length_correlation": r,
        "explained_variance": draw.gauss(0.0, 0.05),
    }  # fmt: skip


@pytest.mark.parametrize("answers", [4, 64])
def test_chance_raises_nothing(answers: int) -> None:
    """50 runs of 12 steps each, few answers or many: none of their numbers has a trend."""
    draw = random.Random(answers)
    for _ in range(50):
        history = [still(draw, answers) for _ in range(12)]
        assert [alarms(history[:steps]) for steps in range(1, 13)] == [[]] * 12


MOVED: list[tuple[str, dict[str, float]]] = [
    ("length", {"length": 50.0}),
    ("short", {"length": 8.0}),
    ("repetition", {"repetition": 0.7}),
    ("stops", {"stopped": 0.05}),
    ("judge", {"judge": 0.35, "reward": 0.7}),
]


@pytest.mark.parametrize(("name", "to"), MOVED, ids=[name for name, _ in MOVED])
def test_what_moves_far_raises_its_own_alarm(name: str, to: dict[str, float]) -> None:
    """Of enough answers; of one a step nothing can be said."""
    draw = random.Random(0)

    def raised(answers: int) -> list[str]:
        history = [still(draw, answers) for _ in range(3)] + [still(draw, answers, to) for _ in range(3)]
        if name == "length":
            history = [line | {"reward_length_correlation": 0.5} for line in history]
        return [found for found, _ in alarms(history)]

    assert raised(64) == [name]
    assert raised(1) == []


def test_a_reward_that_is_mostly_length_is_said_before_the_answers_grow() -> None:
    draw = random.Random(0)
    lines = [still(draw, 64) | {"reward_length_correlation": r} for r in (0.85, 0.9, 0.88)]
    ((name, text),) = alarms(lines)
    assert name == "length" and "(r = 0.88)" in text
    assert alarms([line | {"answers": 4.0} for line in lines]) == []  # twelve answers prove nothing
    assert alarms([line | {"reward_length_correlation": 0.6} for line in lines]) == []
    assert (
        alarms(
            [
                line | {"reward_length_correlation": value}
                for line, value in zip(lines, (1.0, -1.0, None), strict=True)
            ]
        )
        == []
    )


def test_a_critic_that_is_worse_than_none() -> None:
    draw = random.Random(0)
    lines = [still(draw, 64) for _ in range(6)]
    far = [
        line | {"explained_variance": value}
        for line, value in zip(lines, (0, 0, 0, -4.0, -0.1, -9.0), strict=True)
    ]
    ((name, text),) = alarms(far)
    assert name == "critic" and "(explained variance -4.0)" in text
    assert alarms(far[:5]) == []  # one step alone says nothing


def test_kl_beyond_its_noise() -> None:
    draw = random.Random(0)
    line = still(draw, 64) | {"kl": 8.0, "kl_per_token": 0.8, "kl_se": 0.5}
    assert [name for name, _ in alarms([line] * 3)] == ["kl"]
    assert alarms([line | {"kl_se": 6.0}] * 3) == []
    assert [name for name, _ in alarms([{"kl": 8.0, "kl_per_token": 0.8}] * 3)] == [
        "kl"
    ]  # as TRL's trainers log it
