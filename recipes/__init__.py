"""Short scripts to copy and edit: each is one function that returns a Pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def packaged(name: str, instead: str | None = None) -> dict[str, Any]:
    """A stage's `data` and `eval_data`: the packaged rows of that name; or a file of the user's own, of which the stage
    holds out some rows by itself."""
    folder = Path(__file__).parent / "data"
    if instead is not None:
        return {"data": instead}
    return {"data": folder / f"{name}.jsonl", "eval_data": folder / f"{name}_heldout.jsonl"}
