"""What all files are made with: wordings with places for words."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Words = Mapping[str, Sequence[str]]


def filled(wording: str, words: Words, draw: random.Random) -> tuple[str, list[Row]]:
    """The wording with words in its places, and where each stands."""
    text, spans = "", []
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", wording):
        text += literal
        if slot:
            word = draw.choice(words[slot])
            spans.append({"start": len(text), "end": len(text) + len(word), "label": slot})
            text += word
    return text, spans


def evenly(items: Sequence[Any], count: int, draw: random.Random) -> list[Any]:
    """Each item as often as the others, in random order."""
    taken = [items[i % len(items)] for i in range(count)]
    draw.shuffle(taken)
    return taken
