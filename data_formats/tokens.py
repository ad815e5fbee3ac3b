"""Texts as token ids, the trained characters as ranges of tokens, and the proof that the two agree."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import normalize

from posttrain.errors import DataError

from .render import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Tokenized:
    ids: array[int]
    spans: tuple[tuple[int, int], ...]  # token ranges (start, end)


def tokenize_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[array[int]]:
    """Texts of which every token is trained: there is no border to prove."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return (array("i", ids) for ids in encoded["input_ids"])


def tokenize(
    tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered], places: Sequence[str]
) -> list[Tokenized]:
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
        found.append(Tokenized(array("i", ids), tuple(borders.span(*span) for span in one.spans)))
    _prove(tokenizer, rendered, found, places)
    return found


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
    found: Sequence[Tokenized],
    places: Sequence[str],
) -> None:
    """The trained tokens, read back, are the trained text: offsets alone can hide trimmed white space."""
    ranges = [(row, tokens.ids[a:b].tolist()) for row, tokens in enumerate(found) for a, b in tokens.spans]
    answers = [one.text[start:end] for one in rendered for start, end in one.spans]
    decoded = tokenizer.batch_decode(
        [ids for _, ids in ranges], skip_special_tokens=False, clean_up_tokenization_spaces=False
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
