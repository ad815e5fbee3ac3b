"""Documents for continued pretraining: {"text": ...}, and the paragraphs of a .txt file."""

from __future__ import annotations

from .. import fields
from ..examples import Document, Row
from ..format import DataFormat


def _read(row: Row, place: str) -> Document:
    return Document(place, fields.text(row, "text"))


TEXT = DataFormat(
    name="text",
    kind="text",
    shape='{"text"}',
    columns=("text",),
    detect=lambda row: "text" in row,
    why="rows have 'text'",
    to_example=_read,
)
