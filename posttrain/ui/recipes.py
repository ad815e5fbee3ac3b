"""What the form for a new run begins with: the packaged recipes, as values to change or as flags of their function."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from posttrain.errors import RecipeError
from posttrain.packaged_recipes import PackagedRecipe, find_recipe, packaged_recipes
from posttrain.recipe_files import read_yaml
from posttrain.recipe_files.scripts import recipe_in

Json = dict[str, Any]
_NOT_IN_THE_FORM = ("run_dir",)  # it is the name of the run


def offered() -> list[Json]:
    """[{"name", "summary", "recipe": values, or "flags": [{"name", "default", "kind"}]}]; nothing is imported."""
    found = [_of(one) for one in packaged_recipes()]
    return [one for one in found if one is not None]


def script_of(name: str) -> Path:
    """The script of a packaged recipe that has no YAML. Raises RecipeError for a name that no recipe has."""
    script = next((file for file in find_recipe(name).files if file.suffix == ".py"), None)
    if script is None:
        raise RecipeError(f"The recipe {name} has no script; take another one.")
    return script


def words_of(name: str, flags: Any) -> list[str]:
    """The flags of a packaged script, `{"model": "embedded"}`, as words of a command.

    Raises RecipeError for a flag that it has not.
    """
    known = [flag["name"] for flag in _flags(script_of(name))]
    if not isinstance(flags, dict) or not all(isinstance(value, str) for value in flags.values()):
        raise RecipeError("Flags are texts by their names.")
    if unknown := [flag for flag in flags if flag not in known]:
        raise RecipeError(f"{name} has no flag {unknown[0]!r}; it has {', '.join(known)}.")
    return [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items() if value]


def _of(one: PackagedRecipe) -> Json | None:
    script = next((file for file in one.files if file.suffix == ".py"), None)
    if script is None:
        return None
    written = next((file for file in one.files if file.suffix == ".yaml"), None)
    if written is not None:
        values = read_yaml(written, written.name).plain()
        kept = {key: value for key, value in values.items() if key not in _NOT_IN_THE_FORM}
        return {"name": one.name, "summary": one.summary, "recipe": kept}
    try:
        return {"name": one.name, "summary": one.summary, "flags": _flags(script)}
    except RecipeError:  # a script that compares pipelines returns none
        return None


def _flags(script: Path) -> list[Json]:
    """The parameters of the recipe's function, which is read and not run."""
    function = recipe_in(script)
    given = function.args.args
    defaults = [None] * (len(given) - len(function.args.defaults)) + list(function.args.defaults)
    return [
        {"name": one.arg, "default": ast.literal_eval(default) if default else None, "kind": ast.unparse(one.annotation)}
        for one, default in zip(given, defaults, strict=True)
        if one.arg not in _NOT_IN_THE_FORM and one.annotation is not None
    ]  # fmt: skip
