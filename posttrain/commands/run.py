"""`posttrain run`: a recipe file or a script, from the start or from where it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.commands.output import Changes
from posttrain.errors import RecipeError

if TYPE_CHECKING:
    from posttrain.pipeline import Pipeline, Run

File = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML, or a Python script.")]


def run(context: typer.Context, recipe: File, changes: Changes = None) -> None:
    """Run a recipe: YAML, or a Python script with its own flags. Run again, it goes on where it was."""
    if is_yaml(recipe):
        _no_flags(context.args)
        run_yaml(recipe, changes or ())
        return
    from posttrain.recipe_files import run_script

    _no_changes(changes)
    run_script(recipe, context.args)


def run_yaml(recipe: Path, changes: list[str] | tuple[str, ...]) -> None:
    from posttrain.recipe_files import build, changed, read_yaml

    node = read_yaml(recipe, recipe.name)
    run_and_print(build(changed(node, changes)), recipe.read_text("utf-8"), recipe.name, changes)


def run_and_print(pipeline: Pipeline, text: str, name: str, changes: list[str] | tuple[str, ...]) -> None:
    """Run what a recipe's text built, with the text kept for `resume`."""
    from posttrain.pipeline.launch import Started

    print_run(pipeline.run(Started.by_recipe(text, name, changes)))


def print_run(done: Run) -> None:
    """What a run reached, said by one of its processes."""
    from posttrain.pipeline.printing import print_summary
    from posttrain.pipeline.ranks import Ranks

    if Ranks.of_environment().main:
        print_summary(done)


def pipeline_of(recipe: Path, changes: list[str] | None, flags: list[str]) -> Pipeline:
    """What a recipe builds, in YAML with its changes or in Python with its flags; nothing is trained."""
    from posttrain.recipe_files import build, changed, pipeline_of_script, read_yaml

    if is_yaml(recipe):
        _no_flags(flags)
        return build(changed(read_yaml(recipe, recipe.name), changes or ()))
    _no_changes(changes)
    return pipeline_of_script(recipe, flags)


def is_yaml(recipe: Path) -> bool:
    """Raises RecipeError for a name that ends neither as YAML nor as Python."""
    if str(recipe).startswith("-"):
        raise RecipeError(f"There is no option {recipe}; options of the command stand in --help.")
    if recipe.suffix not in (".yaml", ".yml", ".json", ".py"):
        raise RecipeError(f"{recipe}: a recipe ends in .yaml, .yml, .json or .py.")
    return recipe.suffix != ".py"


def _no_flags(flags: list[str]) -> None:
    if flags:
        raise RecipeError(
            f"{flags[0]}: a YAML recipe has no flags; change it with --set, as in --set model=embedded."
        )


def _no_changes(changes: list[str] | None) -> None:
    if changes:
        raise RecipeError(
            f"--set {changes[0]}: this changes a YAML recipe; a script has flags of its own, see -- --help."
        )
