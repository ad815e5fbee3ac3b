"""Texts with labels: as a question whose answer is a label, or as rows for a model with a classification head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from posttrain.errors import SettingError

from .. import fields
from ..dialogues.tools import parse_json
from ..examples import Conversation, Labelled, Message, Row
from ..format import BadRow, DataFormat, Gold
from ..scoring import metrics

TEXTS, LABELS = ("text", "sentence"), ("label", "labels")
INSTRUCTION = "Which label fits the text? Answer with one of: {labels}."
INSTRUCTION_SEVERAL = "Which labels fit the text? Answer with some of: {labels}; or with: none."
NONE = "none"  # the answer for a text of a multi-label file that has no label
MOST_LABELS = 100  # more are no closed set that fits into a prompt


def classification(labels: Sequence[str] = (), instruction: str = "") -> DataFormat:
    """The format with its settings.

    labels: the closed set, in the order of integer labels; () collects it from the file. instruction: what stands
    above the text; "{labels}" in it becomes the labels. Without an instruction a Classifier takes it, too.
    """
    _check_settings(labels, instruction)
    options = {"labels": list(labels), "instruction": instruction}

    def made(format_: DataFormat) -> DataFormat:
        return replace(format_, options=options, prepare=lambda rows: _prepared(format_, rows, options))

    return replace(
        made(CLASSIFICATION), of_kinds={} if instruction else {"labelled": made(CLASSIFICATION_ROWS)}
    )


def _check_settings(labels: Any, instruction: Any) -> None:
    if not isinstance(labels, (list, tuple)) or not all(
        isinstance(one, str) and one.strip() for one in labels
    ):
        raise SettingError(f"classification(labels={labels!r}): labels must be a list of names.")
    if len(set(labels)) < len(labels):
        raise SettingError(f"classification(labels={labels!r}): name each label once.")
    if not isinstance(instruction, str):
        raise SettingError(f"classification(instruction={instruction!r}): instruction must be text.")


def _text(row: Row) -> str:
    return fields.text(row, fields.one_of(row, TEXTS))


def _labels(row: Row) -> tuple[dict[str, str | int], bool]:
    """The row's labels as they are written, by their fields, and whether the file has lists of them."""
    name = fields.one_of(row, LABELS)
    value = row[name]
    if isinstance(value, str) and value.lstrip().startswith("["):  # a cell of a .csv
        value = parse_json(value, name)
    if not isinstance(value, (list, tuple)):
        return {name: _label(value, name)}, False
    return {f"{name}[{i}]": _label(one, f"{name}[{i}]") for i, one in enumerate(value)}, True


def _label(value: Any, field: str) -> str | int:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        raise BadRow(field, "wrong type", f"is {value!r}; a label is a name or a whole number")
    return fields.check_text(value, field).strip()


def _named(label: str | int, options: Mapping[str, Any], field: str) -> str:
    """A label's name; integers count from 0 in the names that were given, and are names where none were."""
    names, name = options["labels"], str(label)
    if name in names:
        return name
    if options["given"] and name.isdecimal():  # in a cell of a .csv, numbers are text
        if int(name) < len(names):
            return str(names[int(name)])
        reason = f"is {name}, and there are {len(names)} labels ({fields.listed(names)}), counted from 0"
        raise BadRow(field, "unknown label", reason)
    reason = f"is {fields.quoted(name)}, which is not among the labels ({fields.listed(names)}); fix it"
    raise BadRow(field, "unknown label", reason)


def _prepared(format_: DataFormat, rows: Iterable[Row], options: Mapping[str, Any]) -> DataFormat:
    """The format for this file: its labels are known, so a row can name them all."""
    several = False
    found = set[str | int]()
    for row in rows:
        try:
            labels, listed = _labels(row)
        except BadRow:
            continue  # the pass that reads the rows reports it
        found.update(labels.values())
        several = several or listed
    whole = sorted(label for label in found if isinstance(label, int))
    texts = sorted(label for label in found if isinstance(label, str))
    names = list(options["labels"]) or list(dict.fromkeys([*map(str, whole), *texts]))
    known = {**options, "labels": names, "given": bool(options["labels"]), "several": several}
    read = _read_labelled if format_.kind == "labelled" else _read
    return replace(format_, options=known, prepare=None, to_example=partial(read, options=known))


def _chosen(row: Row, options: Mapping[str, Any]) -> list[str]:
    """The names of the row's labels, in the order of all labels."""
    names, several = options["labels"], options["several"]
    labels, listed = _labels(row)
    field = fields.one_of(row, LABELS)
    if several and not listed:
        reason = "is one label, where other rows have lists; write lists in all rows"
        raise BadRow(field, "wrong type", reason)
    if not names:
        reason = "is an empty list, as in all rows, so there is no label to learn; add labels"
        raise BadRow(field, "no labels", reason)
    chosen = {_named(label, options, place): place for place, label in labels.items()}
    return [name for name in names if name in chosen]


def _read(row: Row, place: str, options: Mapping[str, Any]) -> Conversation:
    names, several, chosen = options["labels"], options["several"], _chosen(row, options)
    if len(names) > MOST_LABELS:
        reason = f"is one of {len(names)} different labels; up to {MOST_LABELS} fit into a prompt, use a classification head"
        raise BadRow(fields.one_of(row, LABELS), "too many labels", reason)
    for name in names if several else ():
        if "," in name or name.casefold() == NONE:
            reason = f"stands in a file with the label {fields.quoted(name)}, which cannot be told from several labels or none; rename that label"
            raise BadRow(fields.one_of(row, LABELS), "unclear label", reason)
    instruction = options["instruction"] or (INSTRUCTION_SEVERAL if several else INSTRUCTION)
    asked = f"{instruction.replace('{labels}', ', '.join(names))}\n\n{_text(row)}"
    turns = [Message("system", system)] if (system := fields.optional_text(row, "system")) else []
    messages = (*turns, Message("user", asked), Message("assistant", ", ".join(chosen) or NONE))
    return Conversation(place, messages, gold={"label": chosen, "labels": list(names), "several": several})


def _read_labelled(row: Row, place: str, options: Mapping[str, Any]) -> Labelled:
    classes = tuple(options["labels"].index(name) for name in _chosen(row, options))
    return Labelled(place, _text(row), classes, options["several"])


def classification_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, Any]:
    """Accuracy and macro-F1 of the answers as labels, and how often each was taken for each; an answer that is none
    of them counts as unknown."""
    names = golds[0]["labels"]
    if not golds[0]["several"]:
        predicted = [_nearest(answer.text, names) for answer in answers]
        right = [gold["label"][0] for gold in golds]
        table = dict(zip(names, metrics.confusion(names, right, predicted), strict=True))
        confusion = {"columns": [*names, "unknown"], "rows": table}
        return {**metrics.classification(names, right, predicted), "confusion": confusion}
    sets = [frozenset(_nearest(part, names) for part in answer.text.split(",")) for answer in answers]
    return metrics.multilabel(
        names, [frozenset(gold["label"]) for gold in golds], [labels - {NONE} for labels in sets]
    )


def _nearest(answer: str, names: Sequence[str]) -> str:
    """The label that an answer is, but for case and a full stop; the answer itself otherwise."""
    if answer.strip() in names:
        return answer.strip()
    said = answer.strip().rstrip(".。").casefold()
    return next((name for name in names if name.casefold() == said), answer.strip())


CLASSIFICATION: DataFormat = DataFormat(
    name="classification",
    kind="conversation",
    shape='{"text", "label"}, the label a name, a whole number or a list of them',
    columns=(*TEXTS, *LABELS, "system"),
    detect=lambda row: any(name in row for name in TEXTS) and any(name in row for name in LABELS),
    why="rows have 'text' and 'label'",
    to_example=lambda row, place: _read(row, place, CLASSIFICATION.options),
    metric=classification_metric,
    prepare=lambda rows: _prepared(CLASSIFICATION, rows, CLASSIFICATION.options),
    options={"labels": [], "instruction": ""},
)
CLASSIFICATION_ROWS: DataFormat = replace(
    CLASSIFICATION,
    kind="labelled",
    metric=None,
    columns=(*TEXTS, *LABELS),
    prepare=lambda rows: _prepared(CLASSIFICATION_ROWS, rows, CLASSIFICATION_ROWS.options),
)
