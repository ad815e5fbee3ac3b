"""From what a recipe file says to the Pipeline that the same recipe in Python would build."""

from __future__ import annotations

import collections.abc
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from posttrain import Data, Pipeline, Stage
from posttrain.data_formats import DataSource
from posttrain.errors import PosttrainError, RecipeError
from posttrain.pipeline.settings import refuse_unknown

from .forms import Form, arms, forms_of, is_form
from .functions import find_function
from .nodes import Node, as_pair


def build(recipe: Node) -> Pipeline:
    """The Pipeline, checked as it is when Python builds it.

    Raises RecipeError for what a recipe cannot say, and what the Pipeline raises; each begins with the place.
    """
    if not isinstance(recipe.value, dict):
        raise RecipeError(
            f"{recipe.place} a recipe is a mapping with 'stages:', and this is {_found(recipe)}."
        )
    pipeline: Pipeline = _made(_with_strategy(recipe, recipe.value), Form.of(Pipeline))
    return pipeline


def _with_strategy(recipe: Node, given: Mapping[str, Node]) -> Node:
    """The strategy at the top goes into each stage that takes one and names none."""
    strategy, stages = given.get("strategy"), given.get("stages")
    rest = {key: node for key, node in given.items() if key != "strategy"}
    if strategy is not None and stages is not None and isinstance(stages.value, list):
        with_it = [_takes(stage, strategy) for stage in stages.value]
        if with_it == stages.value:
            raise RecipeError(
                f"{strategy.place} strategy: every stage names its own, so this one is used by none."
            )
        rest["stages"] = Node(with_it, stages.place)
    return Node(rest, recipe.place)


def _takes(stage: Node, strategy: Node) -> Node:
    kind, settings = next(iter(as_pair(stage).items()), ("", stage))
    below = {} if settings.value is None else settings.value
    form = forms_of(Stage).get(kind)
    if form is None or "strategy" not in form.settings or not isinstance(below, dict) or "strategy" in below:
        return stage
    return Node({**as_pair(stage), kind: Node({**below, "strategy": strategy}, settings.place)}, stage.place)


def _made(node: Node, form: Form) -> Any:
    """What the form builds from a mapping of its settings."""
    given = {} if node.value is None else node.value
    if not isinstance(given, dict):
        raise RecipeError(
            f"{node.place} {form.name} takes settings as a mapping, and this is {_found(node)}."
        )
    for name, one in given.items():
        try:
            refuse_unknown(form.name, [name], form.settings)
        except PosttrainError as error:
            raise _at(one.place, error) from None
    if missing := [name for name in form.required if name not in given]:
        raise RecipeError(f"{node.place} {form.name} needs {missing[0]!r}.")
    values = {
        name: read(one, form.settings[name].hint, name if form.build is Pipeline else f"{form.name}.{name}")
        for name, one in given.items()
    }
    try:
        return form.build(**values)
    except PosttrainError as error:
        raise _at(_place_of(str(error), node, given), error) from None


def _at(place: str, error: PosttrainError) -> PosttrainError:
    return error if str(error).startswith(place) else type(error)(f"{place} {error}")


def _place_of(message: str, node: Node, given: Mapping[str, Node]) -> str:
    """The line of the setting, or of the stage, that an error is about."""
    for name, one in given.items():
        if re.search(rf"\([^()]*\b{name}\b", message):
            below = one.value if isinstance(one.value, dict) else {}
            meant = [
                inner.place for key, inner in below.items() if re.search(rf"\b{re.escape(key)}\b", message)
            ]
            return (meant or [one.place])[0]
    stage = re.match(r"Stage (\d+) ", message)
    if stage and "stages" in given and isinstance(given["stages"].value, list):
        return given["stages"].value[int(stage[1]) - 1].place
    return node.place


def read(node: Node, hint: Any, what: str) -> Any:
    """The value of a setting of this type. what: "SFT.epochs", for messages."""
    arm = next((arm for arm in arms(hint) if _accepts(node, arm)), None)
    if arm is None:
        raise RecipeError(f"{node.place} {what} must be {said(hint)}, and this is {_found(node)}.")
    if arm == DataSource:
        return _data(node, what)
    if is_form(arm):
        return _named(node, arm, what)
    origin = get_origin(arm) or arm
    if isinstance(node.value, list):
        (item,) = get_args(arm)[:1] or (Any,)
        return [read(one, item, what) for one in node.value]
    if isinstance(node.value, dict):
        item = get_args(arm)[1] if origin is collections.abc.Mapping else Any
        return {key: read(one, item, f"{what}.{key}") for key, one in node.value.items()}
    if origin is collections.abc.Callable:
        return find_function(str(node.value), f"{node.place} {what}")
    return node.value


def _accepts(node: Node, arm: Any) -> bool:
    """Whether a value of this shape can be of the type; what is inside is looked at when it is read."""
    value, origin = node.value, get_origin(arm)
    if origin is Literal:
        return value in get_args(arm) and not isinstance(value, bool)
    if arm is Any:
        return True
    if is_form(arm) or arm == DataSource:
        return isinstance(value, (str, dict)) or (arm == DataSource and isinstance(value, list))
    if isinstance(value, bool):
        return arm is bool
    kinds: Mapping[Any, Any] = {
        type(None): type(None), int: int, float: (int, float), str: str, Path: str,
        collections.abc.Sequence: list, collections.abc.Mapping: dict, collections.abc.Callable: str,
    }  # fmt: skip
    return isinstance(value, kinds.get(origin or arm, ()))


def _named(node: Node, kind: type, what: str) -> Any:
    """`LoRA`, or `LoRA: {r: 8}`."""
    forms = forms_of(kind)
    pair = as_pair(node)
    if len(pair) != 1:
        raise RecipeError(
            f"{node.place} {what} must be one name with its settings below it, such as '{next(iter(forms))}: {{...}}', and "
            f"there are {len(pair)} keys: {', '.join(pair) or 'none'}."
        )
    ((name, settings),) = pair.items()
    if name not in forms:
        near = get_close_matches(name.lower(), [one.lower() for one in forms], n=1)
        hint = (
            f"did you mean {next(one for one in forms if one.lower() == near[0])}?"
            if near
            else f"there are {', '.join(forms)}."
        )
        raise RecipeError(f"{settings.place} {what}: there is no {name!r}; {hint}")
    return _made(Node(settings.value, settings.place), forms[name])


def _data(node: Node, what: str) -> Any:
    """A file, a list of them, or the settings of Data, of which `source` is one."""
    if isinstance(node.value, dict):
        return _made(node, Form.of(Data))
    if isinstance(node.value, list):
        return [_data(one, what) for one in node.value]
    return read(node, str, what)


_WORDS: Mapping[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null", Path: "a path",
    collections.abc.Sequence: "a list", collections.abc.Mapping: "a mapping",
    collections.abc.Callable: "a function as 'module:name'",
}  # fmt: skip


def said(hint: Any) -> str:
    """A type as people say it."""
    words = []
    for arm in arms(hint):
        origin = get_origin(arm)
        if origin is Literal:
            words += [repr(value) for value in get_args(arm)]
        elif is_form(arm):
            words.append(f"a {arm.__name__} by its name")
        elif arm == DataSource or origin is Annotated:
            words.append("a file, a list of files, or a mapping with 'source'")
        elif (origin or arm) in _WORDS:
            words.append(_WORDS[origin or arm])
    return " or ".join(dict.fromkeys(words)) or "left to a recipe in Python"


def _found(node: Node) -> str:
    if isinstance(node.value, (list, dict)):
        return "a list" if isinstance(node.value, list) else "a mapping"
    return json.dumps(node.value, ensure_ascii=False)
