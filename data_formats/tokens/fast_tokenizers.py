"""The fastest exact way to token ids: tokie or fastokens where one is installed and proven equal, else tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from .table import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[Sequence[str]], Ragged]
CANDIDATES = ("fastokens", "tokie")  # the fastest first
PROVEN_ON = 200  # of the run's own texts, beside the nasty ones
# What tokenizers disagree on: white space, unnormalised and unassigned characters, right-to-left text, emoji
# sequences, digits, contractions, control characters, long runs.
NASTY = (
    "", " ", "  ", "\n", "\r\n", "\t\t", " \n \n", "a", " a", "a ", "  a  b   c    d", "\n\n\na\n\n\n\nb",
    "it's I'll you've they'RE DON'T 'tis ''", "1 12 123 1234 12345 1234567890 3.14 1,000,000 0x1F ½ ²",
    "café cafe\u0301 \u1e9b\u0323 ﬁ Å Å \u00a0\u2003\u3000x", "你好，世界。这是一个测试！１２３", "こんにちは 안녕하세요 สวัสดี",
    "שלום עולם مرحبا بالعالم हिन्दी", "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 👍🏽 ☺️", "\u200b\u200d\ufeff\u2028\u2029\u0085", "\x00\x01\x1b[0m\x7f\ufffd",
    "def f(x):\n\treturn {'a': [1, 2], \"b\": None}  # ok\n", "<tag attr=\"v\">&amp;</tag> \\n \\u0041 C:\\temp",
    "https://example.org/a?b=c&d=%20#e user@example.org", "a" * 500, " " * 200, "-" * 300, "ab" * 300, "!?" * 100,
    "\U0001f9ff\U000e0041 \ue000 \u0378", "Ｆｕｌｌｗｉｄｔｈ ǅ ß ſ ﷺ", "'s 's't\u2019s", "_a__b___ $€£ ==>>= <|x|> [INST]",
)  # fmt: skip


@dataclass(frozen=True)
class FastEncoder:
    """Texts to ids, without added start or end tokens. It can be pickled."""

    name: str  # "tokie 0.1.4"
    encode: Encode
    made_of: Any  # tokenizer.json of a faster library, or the tokenizer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sample: Sequence[str]) -> FastEncoder:
        """`sample`: texts of this run; a candidate with one id different from tokenizers' is not used."""
        exact = _tokenizers(tokenizer)
        if not tokenizer.is_fast:
            return cls("tokenizers in Python", exact, tokenizer)
        texts = [*NASTY, *sample[:PROVEN_ON], *_with_special_tokens(tokenizer)]
        expected: Ragged | None = None
        definition = _definition(tokenizer)
        for name in CANDIDATES:
            made = _candidate(name, definition)
            if made is None:
                continue
            expected = exact(texts) if expected is None else expected
            if _equal(made, texts, expected):
                return cls(f"{name} {version(name)}", made, definition)
        return cls(f"tokenizers {version('tokenizers')}", exact, tokenizer)

    def __reduce__(self) -> Any:
        return FastEncoder.again, (self.name, self.made_of)

    @classmethod
    def again(cls, name: str, made_of: Any) -> FastEncoder:
        """The one that has been proven under that name, in another process."""
        library = name.partition(" ")[0]
        made = _candidate(library, made_of) if library in CANDIDATES else _tokenizers(made_of)
        assert made is not None
        return cls(name, made, made_of)


def _with_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return [text for token in added[:50] for text in (token, f"a{token}b", f" {token} \n{token}{token}")]


def _equal(encode: Encode, texts: Sequence[str], expected: Ragged) -> bool:
    import numpy as np

    try:
        made = encode(texts)
    except Exception:  # of a foreign library: whatever it is, this one is not used
        return False
    return np.array_equal(made.offsets, expected.offsets) and np.array_equal(made.values, expected.values)


def _candidate(name: str, definition: str) -> Encode | None:
    try:
        encoder = _MAKERS[name](import_module(name), definition)
    except Exception:  # not installed, or it cannot read this tokenizer
        return None

    def encode(texts: Sequence[str]) -> Ragged:
        import numpy as np

        ids, offsets = encoder.encode_batch_flat(list(texts), add_special_tokens=False)
        return Ragged(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64))

    return encode


def _definition(tokenizer: PreTrainedTokenizerBase) -> str:
    """tokenizer.json without what would change the ids: cuts and padding."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is None and backend.padding is None:
        return str(backend.to_str())
    return json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})


def _tokenizers(tokenizer: PreTrainedTokenizerBase) -> Encode:
    def encode(texts: Sequence[str]) -> Ragged:
        made = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return Ragged.of(made["input_ids"])

    return encode


_MAKERS: dict[str, Callable[[Any, str], Any]] = {
    "fastokens": lambda module, definition: module.Tokenizer.from_json_str(definition),
    "tokie": lambda module, definition: _from_file(module.Tokenizer.from_json, definition),
}


def _from_file(read: Callable[[str], Any], definition: str) -> Any:
    with NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(definition)
        file.flush()
        return read(file.name)
