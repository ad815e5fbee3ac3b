"""Recipes in Python: run as scripts, or asked for their Pipeline without running it."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain import Pipeline
from posttrain.errors import RecipeError


def run_script(script: Path, words: Sequence[str]) -> None:
    """Run a script as `python script.py words` would, in this process."""
    if not script.is_file():
        raise RecipeError(f"There is no file {script}.")
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


def pipeline_of_script(script: Path, words: Sequence[str]) -> Pipeline:
    """What the script's one function that returns a Pipeline builds, given `words` as its flags.

    Raises RecipeError for a script without such a function; it is not run then.
    """
    import functools

    import typer

    name = recipe_in(script).name
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.resolve().parent))
    spec.loader.exec_module(module)
    recipe: Callable[..., Pipeline] = getattr(module, name)
    built: list[Pipeline] = []

    @functools.wraps(recipe)
    def command(*args: Any, **flags: Any) -> None:
        built.append(recipe(*args, **flags))

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    app(args=list(words), prog_name=script.name, standalone_mode=False)
    if not built:  # --help was asked for
        raise SystemExit(0)
    return built[0]


def recipe_in(script: Path) -> ast.FunctionDef:
    """The one function that returns a Pipeline; the file is read, not run: a script may train when it is imported.

    Raises RecipeError where there is none, or more than one.
    """
    try:
        tree = ast.parse(script.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RecipeError(f"The recipe {script} cannot be read as Python ({error}).") from error
    found = [
        node for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns).split(".")[-1] == "Pipeline"
    ]  # fmt: skip
    if len(found) != 1:
        raise RecipeError(
            f"{script} has {len(found) or 'no'} functions that return a Pipeline; a recipe has one, such as "
            "'def recipe(model: str = \"embedded\") -> Pipeline:'."
        )
    return found[0]
