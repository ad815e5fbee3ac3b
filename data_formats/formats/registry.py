"""The formats that are known, and which of them a first record is in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataFileError, SettingError

from ..examples import WAYS, WRITTEN_AS, Kind
from ..fields import FAMILIES, MEANINGFUL, listed, type_name
from ..format import DataFormat
from .alpaca import ALPACA, ALPACA_RANKING
from .bfcl import BFCL
from .classification import CLASSIFICATION, CLASSIFICATION_ROWS
from .extraction import EXTRACTION, EXTRACTION_SPANS
from .openai_messages import OPENAI_MESSAGES, OPENAI_TOOLS, SWIFT_RANKING
from .prompt_only import PROMPTS
from .prompts import EXPLICIT_PROMPT, IMPLICIT_PROMPT, PROMPT_COMPLETION
from .qa import QA, SQUAD
from .sharegpt import ROUNDS, SHAREGPT, SHAREGPT_RANKING, SHAREGPT_TOOLS
from .text import TEXT
from .translation import TRANSLATION
from .unpaired import UNPAIRED

_FORMATS = [  # of two that recognise a row, the first takes it
    TEXT,
    OPENAI_TOOLS,
    OPENAI_MESSAGES,
    SHAREGPT_TOOLS,
    SHAREGPT,
    ROUNDS,
    ALPACA,
    PROMPT_COMPLETION,
    BFCL,
    QA,
    SQUAD,
    CLASSIFICATION,
    CLASSIFICATION_ROWS,
    EXTRACTION,
    EXTRACTION_SPANS,
    TRANSLATION,
    EXPLICIT_PROMPT,
    IMPLICIT_PROMPT,
    ALPACA_RANKING,
    SHAREGPT_RANKING,
    SWIFT_RANKING,
    *PROMPTS,
    *UNPAIRED,
]
OURS = tuple(_FORMATS)  # in the same order in every process


def register(format_: DataFormat) -> DataFormat:
    """Make a format known. It is asked before the others, so it can take rows that one of them would.

    Raises SettingError for a name that is taken.
    """
    kinds = [kind for kind in WAYS if kind not in WRITTEN_AS]
    if format_.kind not in kinds:
        raise SettingError(
            f"Data format '{format_.name}': kind must be one of {', '.join(kinds)}, not {format_.kind!r}."
        )
    if not format_.name or any(
        known.kind == format_.kind and known.is_called(format_.name) for known in _FORMATS
    ):
        raise SettingError(
            f"There is a data format '{format_.name}' of kind '{format_.kind}' already; rename yours."
        )
    _FORMATS.insert(0, format_)
    return format_


def formats() -> tuple[DataFormat, ...]:
    return tuple(_FORMATS)


def formats_of(kind: Kind) -> list[DataFormat]:
    return [format_ for format_ in _FORMATS if format_.kind == kind]


def format_of(first: Any, kind: Kind, place: str) -> DataFormat:
    """The format of the first record, by its field names."""
    if not isinstance(first, Mapping):
        raise DataFileError(
            f"{place}: the record is {type_name(first)} and must be an object with named fields."
        )
    for format_ in formats_of(kind):
        if format_.detect(first):
            return format_
    hint = _hint(first, kind)
    raise DataFileError(
        f"{place}: no known format of kind '{kind}' has these fields: {listed(first)}.{hint} {_ways_out(first, kind, told=hint.startswith(' They are'))}"
    )


_FEW = 3  # formats that are told in a sentence
# What the columns of a plain table can be called, of the kinds that are read from tables.
_PLAIN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "conversation": ("qa", ("question", "answer")),
    "preference": ("preference", ("prompt", "chosen", "rejected")),
    "prompt": ("prompts", ("prompt",)),
}


def _ways_out(first: Mapping[str, Any], kind: Kind, *, told: bool) -> str:
    """The shapes that are read, or where they are listed; and, unless it was told what the rows are, how to say which
    column is what.
    """
    known = formats_of(kind)
    takes = f"Kind '{kind}' takes " + "; ".join(f"{each.name} {each.shape}" for each in known) + "."
    if len(known) > _FEW:
        takes = f"`posttrain formats` lists the {len(known)} formats of this kind."
    name, needed = _PLAIN.get(kind, ("", ()))
    if told or not needed or len(first) < len(needed):
        return takes
    columns = ", ".join(f"{want!r}: {have!r}" for want, have in zip(needed, first, strict=False))
    return f"Say which column holds what, as in Data(..., format={name!r}, columns={{{columns}}}). {takes}"


def format_called(name: str, first: Any, kind: Kind, place: str) -> DataFormat:
    """The format of that name, or the one of that family that recognises the first record."""
    called = [format_ for format_ in formats_of(kind) if format_.is_called(name)]
    if not called:
        raise SettingError(_no_such_format(name, kind))
    if not isinstance(first, Mapping):
        return called[0]  # reading reports what is wrong with the row
    return next((format_ for format_ in called if format_.detect(first)), called[0])


def _no_such_format(name: str, kind: Kind) -> str:
    elsewhere = [format_.kind for format_ in _FORMATS if format_.is_called(name)]
    if elsewhere:
        return f"Data format '{name}' is of kind '{elsewhere[0]}', and this stage takes kind '{kind}'."
    names = list(dict.fromkeys(n for f in formats_of(kind) for n in (f.name, f.family) if n))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"No data format of kind '{kind}' is called '{name}'.{hint} There are: {', '.join(names)}."


def _hint(first: Mapping[str, Any], kind: Kind) -> str:
    meaning = {name for name in first if name in MEANINGFUL}
    others = [
        format_
        for format_ in _FORMATS
        if format_.kind != kind and format_.detect(first) and meaning <= set(format_.columns)
    ]
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
