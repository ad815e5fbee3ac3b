"""The formats that are known, and which of them a first record is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataFileError

from .alpaca import ALPACA, ALPACA_RANKING
from .examples import Kind
from .fields import FAMILIES, type_name
from .format import DataFormat
from .openai_messages import OPENAI_MESSAGES, SWIFT_RANKING
from .prompt_only import PROMPT_MESSAGES, PROMPT_ONLY
from .prompts import EXPLICIT_PROMPT, IMPLICIT_PROMPT, PROMPT_COMPLETION
from .sharegpt import SHAREGPT, SHAREGPT_RANKING
from .text import TEXT
from .unpaired import UNPAIRED

FORMATS = (
    TEXT,
    OPENAI_MESSAGES,
    SHAREGPT,
    ALPACA,
    PROMPT_COMPLETION,
    EXPLICIT_PROMPT,
    IMPLICIT_PROMPT,
    ALPACA_RANKING,
    SHAREGPT_RANKING,
    SWIFT_RANKING,
    PROMPT_ONLY,
    PROMPT_MESSAGES,
    *UNPAIRED,
)


def formats_of(kind: Kind) -> list[DataFormat]:
    return [format_ for format_ in FORMATS if format_.kind == kind]


def format_of(first: Any, kind: Kind, place: str) -> DataFormat:
    """The format of the first record, by its field names."""
    if not isinstance(first, Mapping):
        raise DataFileError(
            f"{place}: the record is {type_name(first)} and must be an object with named fields."
        )
    for format_ in formats_of(kind):
        if format_.recognise(first):
            return format_
    takes = "; ".join(f"{format_.name} {format_.shape}" for format_ in formats_of(kind))
    found = ", ".join(map(str, first)) or "none"
    raise DataFileError(
        f"{place}: no known format of kind '{kind}' has these fields: {found}.{_hint(first, kind)} Kind '{kind}' takes {takes}."
    )


def _hint(first: Mapping[str, Any], kind: Kind) -> str:
    others = [format_ for format_ in FORMATS if format_.kind != kind and format_.recognise(first)]
    if others:  # the one that reads most of the fields
        best = max(others, key=lambda format_: len(first.keys() & set(format_.columns)))
        return f" They are {best.name}, which is of kind '{best.kind}'."
    read = dict.fromkeys(column for format_ in formats_of(kind) for column in format_.columns)
    unknown = [name for name in first if name not in read]
    meant = {
        name: [c for c in read if c in family] for name in unknown for family in FAMILIES if name in family
    }
    questions = [
        f"'{name}' -> {' or '.join(map(repr, columns))}" for name, columns in meant.items() if columns
    ]
    return f" Did you mean {', '.join(questions)}?" if questions else ""
