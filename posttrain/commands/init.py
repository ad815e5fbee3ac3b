"""`posttrain init`: copy a packaged recipe into the user's folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import RecipeError


def init(
    recipe: Annotated[
        str | None, typer.Argument(help="Its name; without one, the recipes are listed.")
    ] = None,
    folder: Annotated[Path, typer.Argument(help="Where to.")] = Path("."),
) -> None:
    """Copy a packaged recipe into a folder, to edit: the script, and its YAML where there is one."""
    from posttrain.packaged_recipes import find_recipe, packaged_recipes

    if recipe is None:
        found = packaged_recipes()
        for one in found:
            print(f"{one.name:{max(len(one.name) for one in found)}}  {one.summary}")
        return
    files = find_recipe(recipe).files
    if there := [folder / file.name for file in files if (folder / file.name).exists()]:
        raise RecipeError(
            f"{there[0]} is there already; move it, or give another folder. Nothing was copied."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
        print(folder / file.name)
    if recipe != "launch":
        print(f"To run it: posttrain run {folder / files[-1].name}")
