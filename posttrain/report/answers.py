"""The same prompts answered after each stage, with the words that are new marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

# A word with the space before it; of scripts without spaces each character.
_WORD = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)|\s+$"
)


def side_by_side(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{"prompt", "answers": [{"stage", "when": "before" or "after" it, "pieces": [[text, is new]]}]}].

    Prompts that were asked most often come first. New is what the answer to the left does not have at that place.
    """
    asked: dict[str, list[tuple[str, str, str]]] = {}
    for stage in stages:
        for sample in stage["samples"]:
            said = asked.setdefault(sample["prompt"], [])
            if "before" in sample and not said:
                said.append((stage["name"], "before", sample["before"]))
            said.append((stage["name"], "after", sample["answer"]))
    order = sorted(asked, key=lambda prompt: -len(asked[prompt]))
    return [{"prompt": prompt, "answers": _marked(asked[prompt])} for prompt in order]


def _marked(said: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    before: str | None = None
    for stage, when, text in said:
        pieces = [[text, False]] if before is None else differences(before, text)
        out.append({"stage": stage, "when": when, "pieces": pieces})
        before = text
    return out


def differences(before: str, after: str) -> list[list[Any]]:
    """`after` in pieces, [[text, whether `before` has it not]]."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    pieces: list[list[Any]] = []
    for kind, _, _, begin, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if begin < end:
            pieces.append(["".join(new[begin:end]), kind != "equal"])
    return pieces
