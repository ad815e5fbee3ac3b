"""Rewards that anybody can check: is it the row's answer, are they the row's calls?

They are reward functions like any other: `GRPO(lora, reward=accuracy_reward, data="questions.jsonl")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...data_formats.formats.qa import final_answer, references_of
from ...data_formats.scoring.metrics import call_scores, exact_match


def accuracy_reward(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
    """1.0 for an answer that is the row's `answer` or one of its `answers`, else 0.0.

    Compared as `exact_match` is (SQuAD's normalisation); of answers that show their way, what stands behind "####", as
    GSM8K writes it (Cobbe et al., arXiv 2110.14168). Raises ValueError where a row has neither column.
    """
    rewards = []
    for number, completion in enumerate(completions):
        given: dict[str, Any] = {
            name: columns[name][number] for name in ("answer", "answers") if name in columns
        }
        row = {name: value for name, value in given.items() if value is not None}
        if not row:
            raise ValueError(
                "a row has no column 'answer' or 'answers' to compare with; give rows with their answers"
            )
        rewards.append(
            exact_match(final_answer(completion), [final_answer(one) for one in references_of(row)])
        )
    return rewards


def function_call_reward(
    prompts: Sequence[Any],
    completions: Sequence[str],
    calls: Sequence[Sequence[Mapping[str, Any]] | None] = (),
    **_: Any,
) -> list[float]:
    """1.0 for an answer whose calls are the row's `calls`, in any order and spelling, else 0.0.

    `calls` are those of the answer that a dialogue ends with. The answer is parsed, not compared as text, and judged as
    the metric call_match of held-out rows is. Raises ValueError where a row has none.
    """
    if len(calls) != len(completions) or not all(calls):
        raise ValueError("a row has no calls to compare with; give dialogues that end with the right calls")
    return [
        call_scores([gold or ()], [text])["call_match"] for gold, text in zip(calls, completions, strict=True)
    ]
