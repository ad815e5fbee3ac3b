"""Setting rows aside for evaluation, by what they say and not by where they stand."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, replace

from posttrain.errors import SettingError

from .examples import Example, Examples, Judged, Pair, Prompt

HASHES = 2**64


def hold_out(examples: Examples, share: float = 0.05, at_least: int = 8) -> tuple[Examples, Examples]:
    """(train, held-out). Fewer than 2 * at_least different rows: the held-out part is empty, and a note says so.

    A row is held out when its hash lies in the lowest `share` of all hashes, or is among the `at_least` lowest
    of this source. So a row that was trained on stays so when rows are appended, and duplicates stay together.
    """
    if not 0 <= share <= 0.5:
        raise SettingError(f"The held-out share must be between 0 and 0.5, not {share}.")
    hashes = [_hash(example) for example in examples.examples]
    distinct = sorted(set(hashes))
    if share == 0 or len(distinct) < 2 * at_least:
        few = f"no rows are held out, because there are {len(distinct)} different ones and it takes {2 * at_least}; give eval_data to have the stage measured"
        return replace(examples, notes=(*examples.notes, few)), replace(examples, examples=())
    limit = max(distinct[at_least - 1] + 1 if at_least else 0, int(share * HASHES))
    train = tuple(e for e, number in zip(examples.examples, hashes, strict=True) if number >= limit)
    held = tuple(e for e, number in zip(examples.examples, hashes, strict=True) if number < limit)
    return replace(examples, examples=train), replace(examples, examples=held)


def _hash(example: Example) -> int:
    # What has a prompt is told apart by it: another answer to a held-out prompt would give the prompt away.
    content = example.prompt if isinstance(example, (Pair, Judged, Prompt)) else astuple(example)[1:]
    return int.from_bytes(hashlib.sha256(repr(content).encode("utf-8")).digest()[:8])
