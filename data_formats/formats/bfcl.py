"""Items of the Berkeley Function Calling Leaderboard: a question, functions, and the calls that are possible answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from posttrain.errors import DataFileError

from .. import fields
from ..dialogues.tools import read_tools
from ..dialogues.turns import read_turns
from ..examples import Call, Conversation, Message, Row
from ..format import BadRow, DataFormat, Gold
from ..scoring import metrics
from ..scoring.calls import calls_in
from ..scoring.possible_calls import TYPES, Possible, are_possible

# Types as in Python, for which a chat template wants JSON Schema's.
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def bfcl(category: str) -> list[dict[str, Any]]:
    """The items of a category such as "simple_python" or "live_multiple", from the package bfcl-eval, as rows.

    Raises DataFileError where the package is not installed or has no such category.
    """
    spec = find_spec("bfcl_eval")  # found, not imported: it wants thirty packages
    places = [Path(place) / "data" for place in (spec.submodule_search_locations if spec else None) or ()]
    if not places:
        raise DataFileError("The items of BFCL come with bfcl-eval; run: pip install --no-deps bfcl-eval")
    found = {path.name.partition("_")[2].partition("_")[2]: path for path in places[0].glob("BFCL_v*_*.json")}
    path = found.get(f"{category}.json")
    if path is None or not (answers := path.parent / "possible_answer" / path.name).is_file():
        names = sorted(
            n.removesuffix(".json")
            for n, p in found.items()
            if (p.parent / "possible_answer" / p.name).is_file()
        )
        raise DataFileError(
            f"BFCL has no category {category!r} with possible answers; it has {', '.join(names)}."
        )
    possible = {item["id"]: item["ground_truth"] for item in _items(answers)}
    return [
        {"question": item["question"], "function": item["function"], "ground_truth": possible[item["id"]]}
        for item in _items(path)
    ]


def _items(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _read(row: Row, place: str) -> Conversation:
    """The dialogue, answered by the first of the possible values of each parameter."""
    functions = fields.check_list(fields.given(row, "function"), "function")
    possible = [
        _check_possible(one, f"ground_truth[{i}]")
        for i, one in enumerate(fields.check_list(fields.given(row, "ground_truth"), "ground_truth"))
    ]
    turns = fields.check_list(fields.given(row, "question"), "question")
    asked = [
        turn.message for turn in read_turns(turns[0] if isinstance(turns[0], list) else turns, "question")
    ]
    if asked[-1].role != "user":
        raise BadRow(
            "question", "order of turns", "does not end with the user; BFCL's multi-turn items cannot be read"
        )
    tools = read_tools([_json_schema(one) for one in functions], "function")
    calls = tuple(Call(name, _first(allowed)) for one in possible for name, allowed in one.items())
    for i, one in enumerate(functions):
        _check_types(one, f"function[{i}]")
    names = [str(function["name"]) for function in functions]
    for i, one in enumerate(possible):
        if unknown := one.keys() - set(names):
            reason = f"is of {unknown.pop()!r}, which is none of the functions ({fields.listed(names)})"
            raise BadRow(f"ground_truth[{i}]", "unknown function", reason)
    gold = {"functions": functions, "possible": possible}
    return Conversation(place, (*asked, Message("assistant", "", calls=calls)), tools, gold=gold)


def _check_types(function: Row, field: str) -> None:
    properties = (function.get("parameters") or {}).get("properties") or {}
    for name, parameter in properties.items():
        kind = parameter.get("type")
        of = (parameter.get("items") or {}).get("type") if kind in ("array", "tuple") else kind
        for one in (kind, of):
            if one not in TYPES:
                reason = f"has the type {fields.quoted(one)} and must have one of {', '.join(TYPES)}"
                raise BadRow(f"{field}.parameters.properties.{name}", "unknown type", reason)


def _check_possible(value: Any, field: str) -> Possible:
    one = fields.check_object(value, field)
    if len(one) != 1:
        raise BadRow(
            field, "possible answer", f"has {len(one)} names and must have one, that of the function"
        )
    for name, allowed in one.items():
        for parameter, values in fields.check_object(allowed, f"{field}.{name}").items():
            fields.check_list(values, f"{field}.{name}.{parameter}")
    return one


def _first(allowed: Any) -> Any:
    """An answer out of possible ones: the first value of each parameter that must be given."""
    if isinstance(allowed, list):
        return [_first(one) for one in allowed]
    if not isinstance(allowed, Mapping):
        return allowed
    found = {}
    for name, values in allowed.items():
        if not isinstance(values, list):  # deep in an object there is one value and no choice
            found[name] = values
        elif values and "" not in values:
            found[name] = _first(values[0])
    return found


def _json_schema(function: Any) -> Any:
    if isinstance(function, Mapping):
        return {
            key: _JSON_TYPES.get(value, value)
            if key == "type" and isinstance(value, str)
            else _json_schema(value)
            for key, value in function.items()
        }
    return [_json_schema(one) for one in function] if isinstance(function, list) else function


def bfcl_metric(golds: Sequence[Gold], answers: Sequence[metrics.Answer]) -> Mapping[str, float]:
    """The share of answers whose calls are possible ones, as BFCL counts, and of those that stop by themselves."""
    return {
        "call_accuracy": fmean(
            _is_right(gold, answer.text) for gold, answer in zip(golds, answers, strict=True)
        ),
        "stop_rate": metrics.stop_rate(answers),
    }


def _is_right(gold: Gold, answer: str) -> bool:
    found = calls_in(answer)
    calls = [call.as_dict() for call in found.calls]
    return not found.broken and are_possible(calls, gold["functions"], gold["possible"])


BFCL = DataFormat(
    name="bfcl",
    kind="conversation",
    shape='{"question": [[{"role", "content"}]], "function": [...], "ground_truth": [{name: {parameter: [values]}}]}',
    columns=("question", "function", "ground_truth"),
    detect=lambda row: "ground_truth" in row and "function" in row,
    why="rows have 'function' and 'ground_truth'",
    to_example=_read,
    metric=bfcl_metric,
)
