"""The bytes behind each token of a byte-level tokenizer: exact borders by adding lengths, and a proof by joining."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TokenBytes:
    words: np.ndarray  # of bytes objects, by id
    lengths: np.ndarray  # int64, by id

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenBytes | None:
        """None where a token is no fixed string of bytes: SentencePiece, WordPiece."""
        import numpy as np

        if not tokenizer.is_fast or not _is_byte_level(tokenizer.backend_tokenizer):
            return None
        backend = tokenizer.backend_tokenizer
        added = {
            number: token.content.encode() for number, token in backend.get_added_tokens_decoder().items()
        }
        numbers = backend.get_vocab(with_added_tokens=False)
        words = np.full(max([*numbers.values(), *added], default=-1) + 1, b"", dtype=object)
        table = _characters_of_bytes()
        try:
            for word, number in numbers.items():
                words[number] = word.translate(table).encode("latin-1")
        except UnicodeEncodeError:  # a word with a character that stands for no byte
            if number not in added:
                return None
        for number, content in added.items():
            words[number] = content
        return cls(words, np.fromiter(map(len, words), dtype=np.int64, count=len(words)))

    def says(self, ids: np.ndarray, text: bytes) -> bool:
        return b"".join(self.words[ids].tolist()) == text


def _is_byte_level(backend: Any) -> bool:
    if type(backend.model).__name__ != "BPE" or backend.decoder is None:
        return False
    decoder = json.loads(backend.decoder.__getstate__())
    steps = [decoder, *(decoder.get("decoders") or ())]
    return any(step.get("type") == "ByteLevel" for step in steps)


@cache
def _characters_of_bytes() -> dict[int, int]:
    """GPT-2's printable stand-ins for the 256 bytes, each to its byte; every other character to none of Latin-1."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = dict.fromkeys(range(256), 0x100)
    return table | {byte: byte for byte in printable} | {256 + i: byte for i, byte in enumerate(others)}
