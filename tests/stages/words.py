"""A vocabulary of twenty words, and a reward that anybody can check."""

from collections.abc import Callable
from typing import Any

WORDS = [
    *[
        "a",
        "the",
        "river",
        "boat",
        "fox",
        "dog",
        "moon",
        "sun",
        "tree",
        "hill",
        "red",
        "blue",
        "green",
        "old",
        "new",
        "runs",
        "sleeps",
        "sings",
        "falls",
    ],
    ".",
]
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unk|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def rivers(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    """The share of the words that are "river", of eight at least; 1 at most."""
    return [min(1.0, text.split().count("river") / max(8, len(text.split()))) for text in completions]


def lengths(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    """Letters, forty to 1: differs from answer to answer."""
    return [len(text) / 40 for text in completions]


def moody_of(reward: Callable[..., list[float]]) -> tuple[Callable[..., list[float]], dict[str, int]]:
    """(a reward that raises at one of its calls, {"count": calls so far, "fails_at": the one that raises})."""
    calls = {"count": 0, "fails_at": -1}

    def moody(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        calls["count"] += 1
        if calls["count"] == calls["fails_at"]:
            raise ConnectionError("the judge is asleep")
        return reward(prompts, completions, **columns)

    return moody, calls
