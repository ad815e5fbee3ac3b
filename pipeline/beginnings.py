"""What rows of tokens begin with in common, which `packed_rows` computes once and a plan counts once."""

from collections.abc import Sequence

SHORTEST_SHARED = 8  # tokens: each shared beginning costs a copy of its keys in every layer


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
