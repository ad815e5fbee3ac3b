"""What a model says to a few prompts of its own held-out rows, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .evaluation import generate

if TYPE_CHECKING:
    from ..data_formats import TokenTable

_COUNT, _NEW_TOKENS = 3, 40


def sample_answers(
    model: Any, tokenizer: Any, table: TokenTable, asked: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Greedy answers to the first prompts of `table`, then to rendered ones that were asked before.

    Returns [{"prompt", "answer"}].
    """
    own = [tokenizer.decode(_prompt_ids(table.row(i))) for i in range(min(_COUNT, len(table)))]
    prompts = list(dict.fromkeys((*own, *asked)))
    answers = generate(model, tokenizer, prompts, _NEW_TOKENS)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]


def _prompt_ids(row: dict[str, list[int]]) -> list[int]:
    """What stands before the first trained token; of a document, which is trained whole, its beginning."""
    if "prompt_ids" in row:
        return row["prompt_ids"]
    untrained = next((i for i, label in enumerate(row["labels"]) if label != -100), 0)
    return row["input_ids"][: untrained or max(1, min(12, len(row["input_ids"]) // 2))]
