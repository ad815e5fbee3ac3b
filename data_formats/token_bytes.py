"""The bytes behind each token of a byte-level tokenizer: exact borders by adding lengths, and a proof by joining."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import chain
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

        if not tokenizer.is_fast:
            return None
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        if not _is_byte_level(definition):
            return None
        vocabulary = definition["model"]["vocab"]
        added = {token["id"]: token["content"].encode() for token in definition.get("added_tokens", ())}
        words = [b""] * (max([*vocabulary.values(), *added], default=-1) + 1)
        table = _bytes_of_characters()
        for word, number in vocabulary.items():
            if number not in added:
                try:
                    words[number] = bytes(table[character] for character in word)
                except KeyError:
                    return None
        for number, content in added.items():
            words[number] = content
        array = np.empty(len(words), dtype=object)
        array[:] = words
        return cls(array, np.array([len(word) for word in words], dtype=np.int64))

    def says(self, ids: np.ndarray, text: bytes) -> bool:
        return b"".join(self.words[ids].tolist()) == text


def _is_byte_level(definition: Any) -> bool:
    decoder = definition.get("decoder") or {}
    steps = chain([decoder], decoder.get("decoders") or ())
    return definition["model"]["type"] == "BPE" and any(step.get("type") == "ByteLevel" for step in steps)


@cache
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
