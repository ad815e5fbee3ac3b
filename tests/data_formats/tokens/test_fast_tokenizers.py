"""A faster tokenizer is used only where its ids are those of tokenizers, and the run says which one it was."""

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data_formats.tokens.fast_tokenizers import CANDIDATES, NASTY, FastEncoder


def encoder(tokenizer: Any, monkeypatch: Any, only: str | None) -> FastEncoder:
    """With one of the candidates installed, or none."""
    for name in CANDIDATES:
        if name != only:
            monkeypatch.setitem(sys.modules, name, None)  # import_module raises ImportError
    return FastEncoder.of(tokenizer, ["a text of the run"])


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_gives_the_ids_of_tokenizers(chatml: Any, monkeypatch: Any, name: str) -> None:
    pytest.importorskip(name)
    fast = encoder(chatml, monkeypatch, name)
    if name == "fastokens":  # tokie cannot read this small tokenizer, and is left
        assert fast.name.startswith(f"{name} ")
    rows = fast.encode([*NASTY, "<|im_start|>user\nhi<|im_end|>\n"])
    exact = chatml([*NASTY, "<|im_start|>user\nhi<|im_end|>\n"], add_special_tokens=False)["input_ids"]
    assert [rows[i].tolist() for i in range(len(rows))] == exact


@pytest.mark.parametrize("name", CANDIDATES)
def test_one_different_id_is_enough_to_leave_a_candidate(chatml: Any, monkeypatch: Any, name: str) -> None:
    module = pytest.importorskip(name)
    exact = encoder(chatml, monkeypatch, None)
    assert exact.name.startswith("tokenizers ")

    class Wrong:
        def __init__(self, right: Any) -> None:
            self.right = right

        def encode_batch_flat(self, texts: list[str], **options: Any) -> Any:
            ids, offsets = self.right.encode_batch_flat(texts, **options)
            return bytes([ids[0] ^ 1]) + ids[1:], offsets

    from posttrain.data_formats.tokens import fast_tokenizers

    maker = fast_tokenizers._MAKERS[name]
    monkeypatch.setitem(fast_tokenizers._MAKERS, name, lambda m, definition: Wrong(maker(m, definition)))
    monkeypatch.setitem(sys.modules, name, module)
    assert FastEncoder.of(chatml, []).name == exact.name


def test_a_candidate_that_fails_is_left(chatml: Any, monkeypatch: Any) -> None:
    from posttrain.data_formats.tokens import fast_tokenizers

    for name in CANDIDATES:
        monkeypatch.setitem(fast_tokenizers._MAKERS, name, lambda module, definition: 1 / 0)
    assert FastEncoder.of(chatml, []).name.startswith("tokenizers ")


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_any_text_has_the_same_ids(chatml: Any, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    rows = FastEncoder.of(chatml, texts).encode(texts)
    assert [rows[i].tolist() for i in range(len(rows))] == chatml(texts, add_special_tokens=False)[
        "input_ids"
    ]
