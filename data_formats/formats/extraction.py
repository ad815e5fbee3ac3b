"""What a text names, as JSON: spans with labels (NER), or records; the answer is a list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .. import fields
from ..dialogues.tools import check_json, parse_json
from ..examples import Conversation, Message, Row, Tagged
from ..format import BadRow, DataFormat, Gold
from ..scoring import metrics

SPANS = ("spans", "entities")
ITEMS = (*SPANS, "records")
LABELS = ("label", "type", "entity")
INSTRUCTION = 'List what the text names as JSON: [{"label": ..., "text": ...}]. Labels: {labels}.'
INSTRUCTION_RECORDS = "Extract the records from the text as a JSON list of objects with the fields: {labels}."


def extraction(instruction: str = "") -> DataFormat:
    """The format with its own instruction above the text; "{labels}" in it becomes the labels, or field names."""
    options = {"instruction": instruction}
    return replace(EXTRACTION, options=options, prepare=lambda rows: _prepared(rows, options))


def _items(row: Row) -> tuple[str, list[Mapping[str, Any]]]:
    """(field, objects) of the row's spans or records."""
    name = fields.one_of(row, ITEMS)
    listed = fields.check_list(parse_json(row[name], name), name)
    return name, [fields.check_object(item, f"{name}[{i}]") for i, item in enumerate(listed)]


def _objects(row: Row, text: str, of_records: bool) -> list[dict[str, Any]]:
    """The answer: records as they are, spans as label and text."""
    name, items = _items(row)
    if of_records != (name == "records"):
        raise BadRow(name, "mixed rows", "is there, and other rows have records; keep them in two files")
    if name == "records":
        return [dict(item) for item in items]
    return [_span(item, f"{name}[{i}]", text) for i, item in enumerate(items)]


def _span(item: Mapping[str, Any], place: str, text: str) -> dict[str, Any]:
    label = fields.text(item, _label_key(item), inside=place)
    if (borders := _borders(item, place, text)) is None:
        return {"label": label, "text": _said(item, place, text)}
    return {"label": label, "text": text[slice(*borders)]}


def _said(item: Mapping[str, Any], place: str, text: str) -> str:
    """The text of a span without positions."""
    said = fields.text(item, "text", inside=place)
    if said not in text:
        reason = f"is {fields.quoted(said)}, which is not in the text; write it as it stands there"
        raise BadRow(f"{place}.text", "span not in text", reason)
    return said


def _borders(item: Mapping[str, Any], place: str, text: str) -> tuple[int, int] | None:
    """(start, end) of a span in characters; None where it has none."""
    if item.get("start") is None and item.get("end") is None:
        return None
    start, end = (_position(item, key, place) for key in ("start", "end"))
    if not 0 <= start < end <= len(text):
        reason = f"is {start} and the end {end}; the text has {len(text)} characters, and the end is the one behind the span"
        raise BadRow(f"{place}.start", "span not in text", reason)
    said = text[start:end]
    if item.get("text") is not None and item["text"] != said:
        reason = f"is {fields.quoted(item['text'])}, and characters {start} to {end} are {fields.quoted(said)}; fix one of them"
        raise BadRow(f"{place}.text", "span not in text", reason)
    if not said.strip():
        reason = f"is {start} and the end {end}, which holds only blanks; fix it or remove the span"
        raise BadRow(f"{place}.start", "span not in text", reason)
    return start, end


def _label_key(item: Mapping[str, Any]) -> str:
    return next((key for key in LABELS if item.get(key) is not None), LABELS[0])


def _position(item: Mapping[str, Any], key: str, place: str) -> int:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        found = fields.type_name(value)
        raise BadRow(f"{place}.{key}", "wrong type", f"is {found} and must be a whole number of characters")
    return value


def _prepared(rows: Iterable[Row], options: Mapping[str, Any]) -> DataFormat:
    """The format for this file, with the labels, or the records' fields, that occur in it."""
    names, of_records = dict[str, None](), False
    for row in rows:
        try:
            name, items = _items(row)
        except BadRow:
            continue  # the pass that reads the rows reports it
        of_records = of_records or name == "records"
        for item in items:
            keys = item if name == "records" else [item.get(_label_key(item))]
            names.update(dict.fromkeys(key for key in keys if isinstance(key, str)))
    known = {**options, "labels": sorted(names), "records": of_records}
    return replace(EXTRACTION, options=known, prepare=None, to_example=partial(_read, options=known))


def _prepared_spans(rows: Iterable[Row]) -> DataFormat:
    options = {"labels": _prepared(rows, {}).options["labels"]}
    return replace(
        EXTRACTION_SPANS, options=options, prepare=None, to_example=partial(_read_spans, options=options)
    )


def _read_spans(row: Row, place: str, options: Mapping[str, Any]) -> Tagged:
    text, (name, items) = fields.text(row, "text"), _items(row)
    if name == "records":
        raise BadRow(
            name, "no spans", "are no spans of the text, so no token can be tagged; train SFT on them"
        )
    if not options["labels"]:
        reason = "is an empty list, as in all rows, so there is no label to learn; add spans"
        raise BadRow(name, "no labels", reason)
    spans: list[tuple[int, int, int]] = []
    for i, item in enumerate(items):
        at = f"{name}[{i}]"
        label = fields.text(item, _label_key(item), inside=at)
        if label not in options["labels"]:
            reason = f"is {fields.quoted(label)}, which is not among the labels ({fields.listed(options['labels'])}); fix it"
            raise BadRow(f"{at}.{_label_key(item)}", "unknown label", reason)
        start, end = _borders(item, at, text) or _only_place(item, at, text)
        for other, (begin, stop, _) in enumerate(spans):
            if start < stop and begin < end:
                reason = f"overlaps {name}[{other}], and a token has one tag; leave one of them out"
                raise BadRow(at, "overlapping spans", reason)
        spans.append((start, end, options["labels"].index(label)))
    return Tagged(place, text, tuple(spans))


def _only_place(item: Mapping[str, Any], place: str, text: str) -> tuple[int, int]:
    said = _said(item, place, text)
    if (times := text.count(said)) > 1:
        reason = f"is {fields.quoted(said)}, which is {times} times in the text; give start and end"
        raise BadRow(f"{place}.text", "unclear span", reason)
    return text.index(said), text.index(said) + len(said)


def _read(row: Row, place: str, options: Mapping[str, Any]) -> Conversation:
    text = fields.text(row, "text")
    objects = _objects(row, text, options["records"])
    instruction = options["instruction"] or (INSTRUCTION_RECORDS if options["records"] else INSTRUCTION)
    asked = f"{instruction.replace('{labels}', ', '.join(options['labels']))}\n\n{text}"
    answer = check_json(objects, "records" if options["records"] else "spans")
    return Conversation(
        place, (Message("user", asked), Message("assistant", answer)), gold={"objects": objects}
    )


def extraction_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, float]:
    """Micro F1 over (label, text) of spans, or (field, value) of records; an answer that is no JSON names nothing."""
    said = [_parsed(answer.text) for answer in answers]
    gold_pairs = [_pairs(gold["objects"]) for gold in golds]
    numbers = dict(metrics.span_f1(gold_pairs, [_pairs(objects or []) for objects in said]))
    numbers["valid_json"] = sum(objects is not None for objects in said) / len(said)
    return numbers


def _parsed(answer: str) -> list[Mapping[str, Any]] | None:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    objects = value if isinstance(value, list) else None
    return objects if objects is not None and all(isinstance(one, dict) for one in objects) else None


def _pairs(objects: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [pair for one in objects for pair in _pairs_of(one)]


def _pairs_of(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    if one.keys() == {"label", "text"}:
        return [(str(one["label"]), str(one["text"]))]
    return [(key, json.dumps(value, sort_keys=True, ensure_ascii=False)) for key, value in one.items()]


EXTRACTION: DataFormat = DataFormat(
    name="extraction",
    kind="conversation",
    shape='{"text", "spans": [{"start", "end", "label"}]} or {"text", "records": [{...}]}',
    columns=("text", *ITEMS),
    detect=lambda row: "text" in row and any(name in row for name in ITEMS),
    why="rows have 'text' and what it names",
    to_example=lambda row, place: _read(row, place, {**EXTRACTION.options, "labels": [], "records": False}),
    metric=extraction_metric,
    prepare=lambda rows: _prepared(rows, EXTRACTION.options),
    options={"instruction": ""},
)
EXTRACTION_SPANS: DataFormat = replace(
    EXTRACTION,
    kind="tagged",
    shape='{"text", "spans": [{"start", "end", "label"}]}',
    metric=None,
    to_example=lambda row, place: _read_spans(row, place, {"labels": []}),
    prepare=_prepared_spans,
    options={},
)
