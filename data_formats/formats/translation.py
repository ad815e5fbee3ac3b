"""Source and target texts; {"translation": {"en": ..., "zh": ...}} says its languages itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from posttrain.errors import SettingError

from .. import fields
from ..examples import Conversation, Message, Row
from ..format import BadRow, DataFormat, Gold
from ..scoring import metrics

INSTRUCTION = "Translate the text."
INSTRUCTION_LANGUAGES = "Translate the text from {source} to {target}."


def translation(source: str = "", target: str = "", instruction: str = "") -> DataFormat:
    """The format with its settings.

    source, target: the languages, keys of "translation" where rows have it (there "" takes the first two).
    instruction: what stands above the text; "{source}" and "{target}" in it become the languages.
    """
    options = {"source": source, "target": target, "instruction": instruction}
    for name, value in options.items():
        if not isinstance(value, str):
            raise SettingError(f"translation({name}={value!r}): {name} must be text.")
    if source and source == target:
        raise SettingError(f"translation(source={source!r}, target={target!r}): these must be two languages.")
    return replace(TRANSLATION, options=options, to_example=partial(_read, options=options))


def _texts(row: Row, options: Mapping[str, str]) -> tuple[str, str, str, str]:
    """(source language, target language, source, target)."""
    if "translation" not in row:
        return options["source"], options["target"], fields.text(row, "source"), fields.text(row, "target")
    both = fields.check_object(row["translation"], "translation")
    source = options["source"] or next((name for name in both if name != options["target"]), "")
    target = options["target"] or next((name for name in both if name != source), "")
    if not source or not target:
        reason = f"must have two languages and has {fields.listed(both)}; add the other one"
        raise BadRow("translation", "missing field", reason)
    texts = [fields.text(both, name, inside="translation") for name in (source, target)]
    return source, target, texts[0], texts[1]


def _read(row: Row, place: str, options: Mapping[str, str]) -> Conversation:
    source, target, text, translated = _texts(row, options)
    instruction = options["instruction"] or (INSTRUCTION_LANGUAGES if source and target else INSTRUCTION)
    asked = instruction.replace("{source}", source).replace("{target}", target)
    messages = Message("user", f"{asked}\n\n{text}"), Message("assistant", translated)
    return Conversation(place, messages, gold={"answers": [translated]})


def translation_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, float]:
    """chrF (Popović 2015), 0 to 100."""
    references = [gold["answers"][0] for gold in golds]
    return {
        "chrf": metrics.chrf([answer.text for answer in answers], references),
        "stop_rate": metrics.stop_rate(answers),
    }


TRANSLATION: DataFormat = DataFormat(
    name="translation",
    kind="conversation",
    shape='{"source", "target"} or {"translation": {"en", "zh"}}',
    columns=("source", "target", "translation"),
    detect=lambda row: "translation" in row or {"source", "target"} <= row.keys(),
    why="rows have a text and its translation",
    to_example=lambda row, place: _read(row, place, TRANSLATION.options),
    metric=translation_metric,
    options={"source": "", "target": "", "instruction": ""},
)
