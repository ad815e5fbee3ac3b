"""What one process has learned about a tokenizer and its template, for another one that starts without transformers."""

from __future__ import annotations

import pickle
from functools import cached_property
from io import BytesIO
from typing import Any

from .encoders import Work

_TOKENIZER = "tokenizer"


class LaterTokenizer:
    """A tokenizer that is unpacked, and transformers imported, when something is asked of it: most rows ask nothing."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    @cached_property
    def _tokenizer(self) -> Any:
        return pickle.loads(self._packed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **settings: Any) -> Any:
        return self._tokenizer(*texts, **settings)


def packed_tokenizer(tokenizer: Any) -> bytes | None:
    """None of one that cannot be given to another process."""
    try:
        return pickle.dumps(tokenizer)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None


def pack(work: Work, tokenizer: bytes) -> bytes:
    """work: with what it has learned so far; it refers to its tokenizer in many places, and goes without it."""
    buffer = BytesIO()
    pickler = _Pickler(buffer)
    pickler.tokenizer = work.tokenizer
    pickler.dump(work)
    return pickle.dumps((buffer.getvalue(), tokenizer))


def unpack(packed: bytes) -> Work:
    work, tokenizer = pickle.loads(packed)
    unpickler = _Unpickler(BytesIO(work))
    unpickler.tokenizer = LaterTokenizer(tokenizer)
    unpacked: Work = unpickler.load()
    return unpacked


class _Pickler(pickle.Pickler):
    tokenizer: Any

    def persistent_id(self, value: Any) -> str | None:
        return _TOKENIZER if value is self.tokenizer else None


class _Unpickler(pickle.Unpickler):
    tokenizer: Any

    def persistent_load(self, name: str) -> Any:
        assert name == _TOKENIZER
        return self.tokenizer
