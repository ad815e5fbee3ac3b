"""Texts as token ids, the trained characters as ranges of tokens, and the proof that the two agree."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING
from unicodedata import normalize

from posttrain.errors import DataError

from ..rendering.render import Rendered
from .fast_tokenizers import FastEncoder
from .table import Ragged
from .token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of texts: the tokens of each, and (start, end), (start, end), ... of its trained ranges of tokens."""

    ids: Ragged
    spans: Ragged


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, made ready once for many texts."""

    tokenizer: PreTrainedTokenizerBase
    fast: FastEncoder

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sample: Sequence[str] = ()) -> TextEncoder:
        """`sample`: texts of this run, on which a faster library than tokenizers is proven equal."""
        return cls(tokenizer, FastEncoder.of(tokenizer, sample))

    @cached_property
    def bytes(self) -> TokenBytes | None:
        return TokenBytes.of(self.tokenizer)

    def ids(self, texts: Sequence[str]) -> Ragged:
        """Every text as a whole. Little Python runs while it is at work, so that another thread can."""
        return self.fast.encode(texts)

    def tokens(self, rendered: Sequence[Rendered], ids: Ragged, places: Sequence[str]) -> Tokens:
        """The texts with their ids and the token ranges of their spans.

        Of a byte-level tokenizer the tokens' own bytes say where each stands, and joined they are the texts, which
        proves it; a row where they are not (a normaliser changed the text), and every row of another tokenizer, is
        looked up by the offsets that tokenizers gives. Raises DataError with the row's place.
        """
        spans: list[Sequence[int] | None] = [None if one.spans else () for one in rendered]
        if self.bytes is not None and None in spans:
            spans = _by_bytes(self.bytes, rendered, ids)
        left = [i for i, found in enumerate(spans) if found is None]
        if left:
            slow = _by_offsets(self.tokenizer, [rendered[i] for i in left], [places[i] for i in left])
            for i, looked_up in zip(left, slow, strict=True):
                spans[i] = looked_up
        return Tokens(ids, Ragged.of(found or () for found in spans))


def _by_bytes(tokens: TokenBytes, rendered: Sequence[Rendered], ids: Ragged) -> list[Sequence[int] | None]:
    """The token ranges of each text; None where its tokens do not spell it, or one crosses a border of a span."""
    import numpy as np

    texts = [one.text.encode() for one in rendered]
    if not tokens.says(ids.values, b"".join(texts)):
        return _one_by_one(tokens, rendered, ids) if len(rendered) > 1 else [None]
    ends = tokens.lengths[ids.values].cumsum()  # the byte behind each token, over all texts
    starts = np.cumsum([0, *map(len, texts)])
    if not np.array_equal(np.concatenate([[0], ends])[ids.offsets], starts):
        return _one_by_one(tokens, rendered, ids) if len(rendered) > 1 else [None]
    counts = [2 * len(one.spans) for one in rendered]
    borders = np.fromiter(
        chain.from_iterable(
            _in_bytes(one, encoded, int(start))
            for one, encoded, start in zip(rendered, texts, starts[:-1].tolist(), strict=True)
        ),
        dtype=np.int64,
        count=sum(counts),
    )
    at = ends.searchsorted(borders, side="right")  # tokens that end at the border or before it
    whole = np.concatenate([[0], ends])[at] == borders
    inside = (at - np.repeat(ids.offsets[:-1], counts)).tolist()
    found: list[Sequence[int] | None] = []
    first = 0
    for count in counts:
        row = inside[first : first + count]
        exact = whole[first : first + count].all() and all(row[i] < row[i + 1] for i in range(0, count, 2))
        found.append(row if exact else None)
        first += count
    return found


def _one_by_one(tokens: TokenBytes, rendered: Sequence[Rendered], ids: Ragged) -> list[Sequence[int] | None]:
    """A batch with a row in it that its tokens do not spell: only that row is looked up in another way."""
    return [
        _by_bytes(tokens, [one], Ragged.of([ids[i]]))[0] if one.spans else ()
        for i, one in enumerate(rendered)
    ]


def _in_bytes(rendered: Rendered, encoded: bytes, start: int) -> list[int]:
    """The borders of the spans in bytes, counted from `start`."""
    text = rendered.text
    if len(encoded) == len(text):  # ASCII: a character is a byte
        return [start + at for span in rendered.spans for at in span]
    return [start + len(text[:at].encode()) for span in rendered.spans for at in span]


def _by_offsets(
    tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered], places: Sequence[str]
) -> list[Sequence[int]]:
    """Each text once, as a whole; its spans are found by the offsets of the tokens."""
    if not tokenizer.is_fast:
        raise DataError(
            f"The tokenizer of '{tokenizer.name_or_path}' gives no offsets, so trained answers cannot be found; use its fast version (tokenizer.json)."
        )
    encoded = tokenizer(
        [one.text for one in rendered],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    special = frozenset(tokenizer.all_special_ids)
    found = []
    for one, ids, offsets, place in zip(
        rendered, encoded["input_ids"], encoded["offset_mapping"], places, strict=True
    ):
        borders = _Borders(one.text, ids, offsets, special, place)
        found.append([borders.span(*span) for span in one.spans])
    _prove(tokenizer, rendered, encoded["input_ids"], found, places)
    return [list(chain.from_iterable(spans)) for spans in found]


@dataclass(frozen=True, slots=True)
class _Borders:
    text: str
    ids: Sequence[int]
    offsets: Offsets
    special: frozenset[int]
    place: str

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The tokens of the characters from start to end."""
        first, last = self._border(start), self._border(end)
        if first >= last:
            raise DataError(
                f"{self.place}: the answer {self.text[start:end][:40]!r} has no token of its own."
            )
        return first, last

    def _border(self, at: int) -> int:
        """How many tokens stand before character `at`."""
        number = bisect_right(self.offsets, at, key=lambda offset: offset[1])
        if number == len(self.offsets) or self.offsets[number][0] >= at:
            return number
        start, end = self.offsets[number]
        if self.ids[number] in self.special and not self.text[at:end].strip():
            return number + 1  # a special token may swallow the white space behind it (Phi-3)
        raise DataError(
            f"{self.place}: the token {self.text[start:end]!r} crosses the border between {self.text[max(0, at - 20) : at]!r} and {self.text[at : at + 20]!r}, so it can be neither trained nor left out; change the white space where the answer begins."
        )


def _prove(
    tokenizer: PreTrainedTokenizerBase,
    rendered: Sequence[Rendered],
    ids: Sequence[Sequence[int]],
    found: Sequence[Sequence[tuple[int, int]]],
    places: Sequence[str],
) -> None:
    """The trained tokens, read back, are the trained text: offsets alone can hide trimmed white space."""
    ranges = [(row, list(ids[row][a:b])) for row, spans in enumerate(found) for a, b in spans]
    answers = [one.text[start:end] for one in rendered for start, end in one.spans]
    decoded = tokenizer.batch_decode(
        [trained for _, trained in ranges], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    for (row, _), text, answer in zip(ranges, decoded, answers, strict=True):
        if text != answer and not _says(text, answer):
            raise DataError(
                f"{places[row]}: the trained tokens read {text[-60:]!r} and the answer is {answer[-60:]!r}; change the white space where the answer begins, or use a tokenizer that can write the answer back."
            )


def _says(text: str, answer: str) -> bool:
    """Equal but for what tokenizers do to text: Qwen's composes characters (NFC), others fold them (NFKC), the
    SentencePiece family drops the space in front. A space in front that is not the answer's is the prompt's."""
    folded, expected = (normalize("NFKC", "".join(one.split())) for one in (text, answer))
    return folded == expected and text[:1].isspace() <= answer[:1].isspace()
