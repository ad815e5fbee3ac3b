"""Ollama's Modelfile: the file, the template, what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .turns import Turns

NO_TEMPLATE = (
    "The chat template does more than write turns one after another (or refuses system turns), so it is not written as a "
    "template of Ollama's: a guess would be answered by another model than the one that was trained."
)


def write_modelfile(
    tokenizer: Any, turns: Turns | None, stops: Sequence[int], folder: Path, gguf: str
) -> None:
    """Nothing where the template cannot be had in Ollama's language: without one, Ollama would guess."""
    text = modelfile(tokenizer, turns, stops, gguf)
    if text is not None:
        (folder / "Modelfile").write_text(text, "utf-8")


def modelfile(tokenizer: Any, turns: Turns | None, stops: Sequence[int], gguf: str) -> str | None:
    """The text of the file; None where there is no template for it."""
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    template = turns.as_go(writes_opening=not adds_bos) if turns else None
    if template is None:
        return None
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(one)}"' for one in stops]
    return "\n".join(lines) + "\n"
