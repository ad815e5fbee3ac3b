"""What a stage's record keeps of its rows, of every kind of token table."""

from typing import Any

import pytest

from posttrain.data_formats import Kind
from posttrain.pipeline.base_models import find_base, shared_tokenizer
from posttrain.stages.data_card import data_card
from posttrain.stages.token_tables import Request, load_tables
from tests.conftest import message

WORDS = "the quick brown fox"
ROWS: dict[Kind, dict[str, Any]] = {
    "text": {"text": WORDS},
    "conversation": {"messages": [message("user", "Hi"), message("assistant", WORDS)]},
    "preference": {
        "prompt": [message("user", "Hi")], "chosen": [message("assistant", WORDS)], "rejected": [message("assistant", "dog")],
    },
    "unpaired": {"prompt": [message("user", "Hi")], "completion": [message("assistant", WORDS)], "label": True},
    "prompt": {"prompt": [message("user", WORDS)]},
    "labelled": {"text": WORDS, "label": "animals"},
    "tagged": {"text": WORDS, "spans": [{"start": 16, "end": 19, "label": "animal"}]},
    "exchange": {"messages": [message("user", "Hi"), message("assistant", WORDS)]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_lengths_and_rows_of_every_kind(kind: Kind) -> None:
    base = find_base("tiny-random")
    tokenizer = shared_tokenizer(base.folder)
    other: dict[str, Any] = {"label": "plants"} if kind == "labelled" else {}
    rows = [ROWS[kind] | ({"text": f"{WORDS} {i}"} | other if "text" in ROWS[kind] else {}) for i in range(4)]
    rows = [ROWS[kind], *rows] if kind == "labelled" else rows
    tables = load_tables(Request(rows, rows, kind, 64, "drop"), lambda: tokenizer, base.tokenizer_fingerprint)
    card = data_card(tables.train, tokenizer, 64)
    assert sum(count for _, _, count in card["histogram"]) == len(tables.train) > 0
    text = "".join(text for _, pieces in card["shown"][0]["parts"] for text, _ in pieces)
    assert WORDS in text
    marked = "".join(text for _, pieces in card["shown"][0]["parts"] for text, trained in pieces if trained)
    if kind in ("conversation", "preference", "unpaired", "exchange"):
        assert WORDS in marked and "Hi" not in marked


def test_rows_that_are_long_are_not_shown() -> None:
    base = find_base("tiny-random")
    tokenizer = shared_tokenizer(base.folder)
    rows = [{"text": f"{i} " + "river " * 400} for i in range(3)]
    tables = load_tables(
        Request(rows, rows, "text", 1024, "drop"), lambda: tokenizer, base.tokenizer_fingerprint
    )
    assert data_card(tables.train, tokenizer, 1024)["shown"] == []
