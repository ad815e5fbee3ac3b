"""The fixed texts that a template writes around the turns: with them, one render is enough to find every answer.

They are learned from two small dialogues. A row whose render is exactly these texts and its own contents is proven;
every other row is left to the slower proof, so a template that does anything cleverer loses only speed. Of a template
that only writes its contents down (`purity`), one render proves all rows of the same roles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from posttrain.errors import DataError

from ..examples import Message, Role

Apply = Callable[[Sequence[Message], bool], str]  # (messages, for an answer)
Span = tuple[int, int]
_MARK = "\N{CURRENCY SIGN}"


@dataclass(frozen=True)
class Literals:
    begin: Mapping[Role, str]  # before the first turn, by its role
    between: Mapping[tuple[Role, Role], str]
    end: str  # behind an answer that is the last turn
    stop: int  # so many characters of `end` are trained: up to the end of the stop token
    strips: bool  # the template cuts white space off the contents

    def written(self, messages: Sequence[Message]) -> tuple[str, tuple[Span, ...]] | None:
        """(the dialogue in these texts, where every trained answer stands in it); None for turns they do not know."""
        pieces, spans, at = list[str](), list[Span](), 0
        last: Role | None = None
        for message in messages:
            role = message.role
            fixed = self.begin.get(role) if last is None else self.between.get((last, role))
            if fixed is None:
                return None
            content = message.content.strip() if self.strips else message.content
            pieces += (fixed, content)
            at += len(fixed) + len(content)
            if role == "assistant" and message.trained:
                spans.append((at - len(content), at + self.stop))
            last = role
        pieces.append(self.end)
        return ("".join(pieces), tuple(spans)) if last == "assistant" else None


def learn(apply: Apply, stops_at_end: re.Pattern[str]) -> Literals | None:
    """None for a template that does not write every turn of a role alike."""
    for strips in False, True:
        found = _learn(apply, stops_at_end, strips)
        if found is not None:
            return found
    return None


def _learn(apply: Apply, stops_at_end: re.Pattern[str], strips: bool) -> Literals | None:
    roles: list[Role] = ["user", "assistant"] * 3
    begin: dict[Role, str] = {}
    between: dict[tuple[Role, Role], str] = {}
    ends = set[str]()
    for probe in ([*roles], ["system", *roles]):
        turns = [Message(role, f" {_MARK}{i}{_MARK} ") for i, role in enumerate(probe)]
        try:
            texts = _around(apply(turns, False), [turn.content for turn in turns], strips)
        except DataError:
            if probe[0] == "system":
                continue  # no system turns: dialogues that have one are refused when they are rendered
            return None
        if texts is None:
            return None
        begin[probe[0]] = texts[0]
        ends.add(texts[-1])
        for pair, fixed in zip(pairwise(probe), texts[1:-1], strict=True):
            if between.setdefault(pair, fixed) != fixed:
                return None
    (end, *more) = ends
    stop = stop_end(end, between["assistant", "user"], stops_at_end)
    if more or stop is None or not between["assistant", "user"].startswith(end[:stop]):
        return None
    asked = begin["user"] + f"{_MARK}x{_MARK}" + between["user", "assistant"]
    if apply([Message("user", f"{_MARK}x{_MARK}")], True) != asked:
        return None  # what the model is asked with is not what stands before an answer
    return Literals(begin, between, end, stop, strips)


def stop_end(end: str, going_on: str, stops_at_end: re.Pattern[str]) -> int | None:
    """Where the stop token ends, in what stands behind an answer: at the end of the text, and when a turn follows.

    It is the last special token that both have (Cohere ends a turn with two of them); where they differ it is the
    first of the end (Phi-3 ends a text with one more, gpt-oss with another).
    """
    ends, at = list[int](), 0
    while found := stops_at_end.search(end, at):
        at = found.end("stop")
        ends.append(at)
    both = in_common(end, going_on)
    return max((at for at in ends if at <= both), default=ends[0] if ends else None)


def in_common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _around(text: str, contents: Sequence[str], strips: bool) -> list[str] | None:
    """What stands before, between and behind the contents, each of which must be there once."""
    texts, at = [], 0
    for content in contents:
        written = content.strip() if strips else content
        if text.count(written) != 1:
            return None
        start = text.index(written)
        texts.append(text[at:start])
        at = start + len(written)
    return [*texts, text[at:]]
