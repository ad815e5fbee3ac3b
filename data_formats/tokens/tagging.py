"""Spans of characters as one tag for each token (BIO: Ramshaw & Marcus 1995), and back."""

from __future__ import annotations

from collections.abc import Sequence

from .table import UNTRAINED

OUTSIDE = "O"
Spans = Sequence[tuple[int, int, int]]  # (start, end, label)


def tag_names(labels: Sequence[str]) -> list[str]:
    """["O", "B-person", "I-person", ...]: a tag's number is its place here."""
    return [OUTSIDE, *(f"{part}-{label}" for label in labels for part in "BI")]


def tag_tokens(text: str, offsets: Sequence[tuple[int, int]], spans: Spans) -> tuple[list[int], bool, bool]:
    """(the tag of each token, whether a span's border falls inside a token, whether a span got no token).

    offsets: characters (start, end) of each token; blanks at its ends are not part of it, a token without characters
    is not tagged (-100). A token belongs to the first span that it shares a character with. Spans do not overlap.
    """
    bare = [_bare(text, start, end) for start, end in offsets]
    tags = [UNTRAINED if start == end else 0 for start, end in offsets]
    crossed = lost = False
    at = 0  # tokens before this one end before the span
    for start, end, label in sorted(spans):
        start, end = _bare(text, start, end)
        while at < len(bare) and bare[at][1] <= start:
            at += 1
        mine = []
        for i in range(at, len(bare)):
            if bare[i][0] >= end:
                break
            if tags[i] == 0:
                mine.append(i)
        for i in mine:
            tags[i] = 2 * label + (1 if i == mine[0] else 2)
        lost = lost or not mine
        crossed = crossed or not mine or bare[mine[0]][0] != start or bare[mine[-1]][1] != end
    return tags, crossed, lost


def spans_of(tags: Sequence[int], names: Sequence[str]) -> list[tuple[str, str]]:
    """The (label, "first:last token") of the spans that tags say; -100 is skipped.

    An I- that does not go on with its label begins a span, as in CoNLL's own evaluation.
    """
    found: list[tuple[str, str]] = []
    label, first, last = "", 0, 0
    for i, tag in enumerate([*tags, 0]):
        if tag == UNTRAINED:
            continue
        part, _, said = names[tag].partition("-")
        if label and not (part == "I" and said == label):
            found.append((label, f"{first}:{last}"))
            label = ""
        if part != OUTSIDE and not label:
            label, first = said, i
        last = i
    return found


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the blanks at both ends; as they are where there is nothing else."""
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
