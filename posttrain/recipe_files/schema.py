"""The JSON schema of recipe files, for editors: made of the same classes and docstrings as everything else."""

from __future__ import annotations

import collections.abc
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from posttrain import Data, Pipeline
from posttrain.data_formats import DataSource
from posttrain.stages import Strategy

from .forms import Form, arms, forms_of, is_form, kinds_in_recipes

_TYPES: Mapping[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", Path: "string",
    collections.abc.Callable: "string",
}  # fmt: skip


def schema() -> dict[str, Any]:
    """Draft 2020-12; every setting of every stage, strategy and of Data, with its docstring's sentences."""
    recipe = _settings(Form.of(Pipeline))
    of_all = "The strategy of every stage that names none."
    recipe["properties"]["strategy"] = _refer(Strategy) | {"description": of_all}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "posttrain recipe",
        **recipe,
        "$defs": {
            "Data": _settings(Form.of(Data)),
            "DataSource": _source(),
            **{kind.__name__: _named(kind) for kind in kinds_in_recipes()},
        },
    }


def _named(kind: type) -> dict[str, Any]:
    """A name with its settings below it, or alone where nothing must be set."""
    forms = forms_of(kind)
    alone = [name for name, form in forms.items() if not form.required]
    below = {
        "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
        "properties": {name: _settings(form) for name, form in forms.items()},
    }  # fmt: skip
    return {"anyOf": [*([{"enum": alone}] if alone else []), below]}


def _settings(form: Form) -> dict[str, Any]:
    required = form.required
    return {
        "type": "object" if required else ["object", "null"],
        "description": form.description,
        "properties": {
            name: _of(setting.hint)
            | ({"description": setting.description} if setting.description else {})
            | ({"default": setting.default} if _is_plain(setting.default) else {})
            for name, setting in form.settings.items()
        },
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _source() -> dict[str, Any]:
    one = [{"type": "string", "description": "A file, a folder, or a Hub id."}, {"$ref": "#/$defs/Data"}]
    return {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "minItems": 1}]}


def _refer(kind: type) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _of(hint: Any) -> dict[str, Any]:
    """What a setting of this type may be."""
    found: list[dict[str, Any]] = []
    for arm in arms(hint):
        if (one := _of_arm(arm)) is not None and one not in found:
            found.append(one)
    if not found:
        return {"not": {}}
    return found[0] if len(found) == 1 else {"anyOf": found}


def _of_arm(arm: Any) -> dict[str, Any] | None:
    """None for what a recipe cannot say, such as a ModelRef."""
    origin = get_origin(arm)
    if arm is Any:
        return {}
    if arm == DataSource:
        return {"$ref": "#/$defs/DataSource"}
    if origin is Literal:
        return {"enum": list(get_args(arm))}
    if is_form(arm):
        return _refer(arm)
    if origin is collections.abc.Sequence:
        return {"type": "array", "items": _of(get_args(arm)[0])}
    if origin is collections.abc.Mapping:
        return {"type": "object", "additionalProperties": _of(get_args(arm)[1])}
    if (origin or arm) is collections.abc.Callable:
        return {
            "type": "string",
            "pattern": r"^[\w.]+:\w+$",
            "description": "A function of a file in the current folder: module:name.",
        }
    return {"type": _TYPES[arm]} if arm in _TYPES else None


def _is_plain(value: Any) -> bool:
    return value is not MISSING and (value is None or isinstance(value, (bool, int, float, str)))
