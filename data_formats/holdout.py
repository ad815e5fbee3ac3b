"""Setting rows aside for evaluation, by what they say and not by where they stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from posttrain.errors import SettingError

from .examples import (
    Completion,
    Conversation,
    Document,
    Example,
    Examples,
    Judged,
    Labelled,
    Message,
    Pair,
    Prompt,
    Tagged,
)

if TYPE_CHECKING:
    import numpy as np

HASHES = 2**64


def hold_out(examples: Examples, share: float = 0.05, at_least: int = 8) -> tuple[Examples, Examples]:
    """(train, held-out) of examples in memory, as `divide` divides them."""
    import numpy as np

    hashes = np.array([content_hash(example) for example in examples.examples], dtype=np.uint64)
    train, held, notes = divide(hashes, share, at_least)
    parts = [tuple(examples.examples[i] for i in part.tolist()) for part in (train, held)]
    return replace(examples, examples=parts[0], notes=(*examples.notes, *notes)), replace(
        examples, examples=parts[1]
    )


def divide(
    hashes: np.ndarray, share: float = 0.05, at_least: int = 8
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(rows to train, rows held out, notes). Fewer than 2 * at_least different ones: none is held out, and a note
    says so.

    A row is held out when its hash lies in the lowest `share` of all hashes, or is among the `at_least` lowest
    of this source. So a row that was trained on stays so when rows are appended, and duplicates stay together.
    """
    import numpy as np

    if not 0 <= share <= 0.5:
        raise SettingError(f"The held-out share must be between 0 and 0.5, not {share}.")
    distinct = np.unique(hashes)
    if share == 0 or len(distinct) < 2 * at_least:
        few = f"no rows are held out, because there are {len(distinct)} different ones and it takes {2 * at_least}; give eval_data to have the stage measured"
        return np.arange(len(hashes)), np.arange(0), (few,)
    limit = max(int(distinct[at_least - 1]) + 1 if at_least else 0, int(share * HASHES))
    held = hashes < np.uint64(min(limit, HASHES - 1))
    return np.flatnonzero(~held), np.flatnonzero(held), ()


def content_hash(example: Example) -> int:
    """64 bits of what an example says; of what has a prompt, of the prompt alone: another answer to a held-out
    prompt would give the prompt away."""
    if isinstance(example, (Pair, Judged, Prompt)):
        digest = hashlib.sha256(_prompt(example.prompt).encode("utf-8", "surrogatepass")).digest()
    else:  # there are many of them, and this takes a third of the time
        digest = hashlib.blake2b(_content(example).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:8])


def _prompt(prompt: Sequence[Message] | str) -> str:
    """As it has been hashed from the start: which prompts are held out must not change with a version."""
    if isinstance(prompt, str):
        return repr(prompt)
    turns = [
        f"Message(role={turn.role!r}, content={turn.content!r}, trained={turn.trained!r})"
        + (_turn(turn) if turn.calls or turn.reasoning else "")
        for turn in prompt
    ]
    return f"({', '.join(turns)}{',' if len(turns) == 1 else ''})"


def _content(example: Example) -> str:
    if isinstance(example, Conversation):
        return _turns(example.messages) + (json.dumps(example.tools, default=dict) if example.tools else "")
    if isinstance(example, Completion):
        return f"{example.prompt}\0{example.completion}"
    assert isinstance(example, (Document, Labelled, Tagged))
    return example.text


def _turns(messages: Iterable[Message]) -> str:
    return "\0".join(_turn(message) for message in messages)


def _turn(message: Message) -> str:
    said = f"{message.role}\0{message.content}" if message.trained else f"{message.role}\0\0{message.content}"
    if not message.calls and not message.reasoning:
        return said
    calls = json.dumps([call.as_dict() for call in message.calls], sort_keys=True, default=dict)
    return f"{said}\0{message.reasoning}\0{calls}"
