"""Golden prompts: what the trained model says to a few texts, as token ids and logits.

# C cases, each alone in its batch; T tokens of one; V vocabulary, classes or tags
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation import logits, mean_kl

_ASKED, _TOKENS = 3, 48  # rendered prompts of the run; tokens of a case that the model is asked for
# Scripts, digits, cases, contractions, spaces: where pre-tokenizers differ from each other.
_MIXED = "Hello  World, it's 12345.67 €!\n\n\tÀ bientôt — 你好，世界 don't DON'T\r\n x = [1,2];  "
_SHORT = ("The quiet river drifts along.", "Boats.")
_CHATS = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And 3 + 3?"},
    ],
)


@dataclass(frozen=True)
class Golden:
    """Texts, and what the run's own tokenizer makes of them."""

    cases: list[dict[str, Any]]  # {"text", "special": whether special tokens are added} or {"chat": messages}
    ids: list[list[int]]

    @classmethod
    def of(cls, tokenizer: Any, prompts: Sequence[str], classifies: bool = False) -> Golden:
        """prompts: rendered ones of the run. classifies: whether the model gives scores, which are asked for in batches."""
        cases: list[dict[str, Any]] = [{"text": text, "special": False} for text in prompts[:_ASKED]]
        if tokenizer.chat_template:
            cases += [{"chat": chat} for chat in _CHATS if _can_render(tokenizer, chat)]
        cases.append({"text": _MIXED, "special": True})
        if classifies:
            cases += [{"text": text, "special": True} for text in _SHORT]
        texts = [cls.text(tokenizer, case) for case in cases]
        ids = [
            tokenizer(text, add_special_tokens=bool(case.get("special")))["input_ids"]
            for text, case in zip(texts, cases, strict=True)
        ]
        return cls(cases, [list(row) for row in ids])

    @staticmethod
    def text(tokenizer: Any, case: Mapping[str, Any]) -> str:
        """As it is tokenised: a chat in the model's template."""
        if "chat" not in case:
            return str(case["text"])
        return str(tokenizer.apply_chat_template(case["chat"], tokenize=False, add_generation_prompt=True))

    @property
    def asked(self) -> list[list[int]]:
        """The ids that go through a model: each case's beginning."""
        return [ids[:_TOKENS] for ids in self.ids]

    def ask(self, model: Any, pad_id: int) -> list[Any]:
        """C tensors, float32 on the CPU: (T, V) logits, or (V,) scores."""
        return [logits(model, [ids], pad_id)[0] for ids in self.asked]


def _can_render(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> bool:
    from jinja2 import TemplateError

    try:
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except TemplateError:  # templates without a system role raise it
        return False
    return True


def largest_difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Between two answers to the golden prompts, as a share of the largest expected value; infinity for NaN."""
    most = max(float(one.abs().max()) for one in expected)
    worst = max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))
    return worst / most if worst == worst else float("inf")


def drift(trained: Sequence[Any], other: Sequence[Any]) -> float:
    """Mean KL(trained || other) in nats per token (or per text that is classified); of single scores, which have no
    distribution, the mean difference as a share of the mean score."""
    if trained[0].shape[-1] == 1:
        differences = sum(float((one - two).abs().mean()) for one, two in zip(trained, other, strict=True))
        return differences / sum(float(one.abs().mean()) for one in trained)
    rows = [
        (one.view(-1, one.shape[-1]), two.view(-1, two.shape[-1]))
        for one, two in zip(trained, other, strict=True)
    ]
    return sum(mean_kl(one, two) * len(one) for one, two in rows) / sum(len(one) for one, _ in rows)


def agreement(trained: Sequence[Any], other: Sequence[Any]) -> float:
    """The share of places at which the likeliest token or class is the same."""
    same = [
        (one.argmax(-1) == two.argmax(-1)).float().reshape(-1)
        for one, two in zip(trained, other, strict=True)
    ]
    return sum(float(one.sum()) for one in same) / sum(len(one) for one in same)
