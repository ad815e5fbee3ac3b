"""A vocabulary of twenty words, and a reward that anybody can check."""

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
