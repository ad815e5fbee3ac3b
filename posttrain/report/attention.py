"""What a reader must see first of a stage, in words that the page has in both languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.pipeline.remote_code import SWITCH

Json = dict[str, Any]
_MUCH = 0.1  # of an ability; every training moves it a little


def attention_of(stage: Mapping[str, Any]) -> Iterator[Json]:
    """{"level": "alarm", "warning" or "note", "stage", "text"}, the gravest of a stage not always first.

    A sentence of the report's own is also there as {"words", "values"}, for other languages; what stages and errors say
    is not. A note is news, and nothing that is wrong.
    """
    name = stage["name"]
    if stage["remote_code"]:
        yield _said("warning", name, "Python code that came with the model was allowed to run ({switch}=1)", switch=SWITCH)  # fmt: skip
    if stage["state"] == "stopped":
        yield _said("note", name, "stopped after step {step}; resume goes on", step=stage["steps"])
    elif stage["error"]:
        yield {"level": "alarm", "stage": name, "text": f"{stage['error']['error']}: {stage['error']['text']}"}  # fmt: skip
    elif stage["state"] == "unfinished":
        yield _said("alarm", name, "ended without a word after step {step}; run the same command again to go on", step=stage["steps"])  # fmt: skip
    for alarm in stage["alarms"]:
        yield _said("alarm", name, "step {step}: {text}", step=alarm["step"], text=alarm["text"])
    for change in stage["changes"]:
        if change["verdict"] == "worse":
            yield _said("warning", name, "{metric} got worse on held-out rows: {before} to {after}", **_ends(change))  # fmt: skip
    for lost in stage["forgetting"]:
        if lost.get("verdict") == "worse" and abs(lost["after"] - lost["before"]) > _MUCH * abs(
            lost["before"]
        ):
            yield _said("warning", name, "{metric} went from {before} to {after}: fewer steps, a lower learning_rate or replay=0.05 keep more", **_ends(lost))  # fmt: skip
    yield from _of_data(stage)


def _of_data(stage: Mapping[str, Any]) -> Iterator[Json]:
    name, data = stage["name"], stage["data"] or {}
    for part in (data, data.get("held_out") or {}):
        of = "" if part is data else "held out: "
        if lost := part.get("rows_dropped"):
            why = ", ".join(f"{number} {reason}" for reason, number in part["dropped_reasons"].items())
            yield _said("warning", name, of + "{rows} rows were dropped ({why})", rows=lost, why=why)
        if cut := part.get("rows_cut"):
            yield _said("warning", name, of + "{rows} rows were cut, {lost} of them lost a stop token", rows=cut, lost=part["stop_tokens_lost"])  # fmt: skip
    if data and not stage["changes"]:
        yield _said("warning", name, "nothing was measured on held-out rows")


def _ends(change: Mapping[str, Any]) -> dict[str, str]:
    return {
        "metric": change["name"],
        "before": f"{change['before']:.4g}",
        "after": f"{change['after']:.4g}",
    }


def _said(level: str, stage: str, words: str, **values: Any) -> Json:
    """The text calls a metric as the English page does."""
    english = {key: value.replace("_", " ") if key == "metric" else value for key, value in values.items()}
    return {
        "level": level,
        "stage": stage,
        "text": words.format(**english),
        "words": words,
        "values": values,
    }
