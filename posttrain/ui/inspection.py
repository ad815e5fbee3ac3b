"""What is in a data file, asked of `posttrain inspect` in another process: a bad file can end that, and not the page."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.data_formats.inspection_page import visible
from posttrain.errors import SettingError

from .commands import answer

MOST_BYTES = 256 << 20  # of a file that is dropped on the page
_SECONDS = 600.0
_ROWS = 10  # that are shown with their trained tokens


@dataclass(frozen=True)
class Question:
    """name: of the file that is dropped, or a path of this machine."""

    name: str
    model: str = ""  # whose tokens are shown
    kind: str = ""  # what it is read as
    max_length: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Question:
        """Raises SettingError for what is no text."""
        values = {name: given.get(name) or "" for name in ("name", "model", "kind", "max_length")}
        if not all(isinstance(value, str) for value in values.values()) or not values["name"]:
            raise SettingError("An inspection needs the file's name; it and the other settings are texts.")
        return cls(**values)

    def words(self) -> list[str]:
        """Of the command. A model that is a folder here is found from anywhere."""
        model = str(Path(self.model).resolve()) if self.model and Path(self.model).is_dir() else self.model
        given = {"model": model, "kind": self.kind, "max-length": self.max_length}
        words = [f"--{flag}={value}" for flag, value in given.items() if value]
        return ["inspect", "--json", *words, *([f"--rows={_ROWS}"] if self.model else []), "--", self.name]


async def kept(body: AsyncIterator[bytes], question: Question, folder: Path) -> Question:
    """A body that the guard bounds, as a file in `folder`; the question is then about that file."""
    # The ending says what a file is; nothing else of a stranger's name becomes one of ours.
    name = re.sub(r"[^\w.-]", "_", Path(question.name).name, flags=re.ASCII).lstrip(".-")[-100:] or "file"
    with (folder / name).open("wb") as file:
        async for piece in body:
            file.write(piece)
    return replace(question, name=name)


async def inspected(question: Question, folder: Path | None = None) -> Any:
    """What `posttrain inspect --json` says. folder: in which the file is found; the page's own if not given."""
    return _shown(await answer(question.words(), _SECONDS, folder))


def _shown(value: Any) -> Any:
    """With every character of every text visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list) else value
