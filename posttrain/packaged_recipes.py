"""The recipes that come with the package."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from posttrain.errors import RecipeError


@dataclass(frozen=True)
class PackagedRecipe:
    """A script of the recipes folder, and its YAML where there is one; or what starts recipes on several machines."""

    name: str
    summary: str  # the first line of its docstring
    files: tuple[Path, ...]


def packaged_recipes() -> list[PackagedRecipe]:
    """All of them, by name; the scripts are read, not imported."""
    scripts = sorted(_folder().glob("[!_]*.py"))
    launchers = tuple(sorted((_folder() / "launch").iterdir()))
    return [
        *(_of(script) for script in scripts),
        PackagedRecipe("launch", "What starts any recipe on several GPUs or machines.", launchers),
    ]


def _of(script: Path) -> PackagedRecipe:
    text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    files = tuple(file for file in (script, script.with_suffix(".yaml")) if file.is_file())
    return PackagedRecipe(script.stem, text.partition("\n")[0], files)


def find_recipe(name: str) -> PackagedRecipe:
    """Raises RecipeError for a name that no recipe has, with the nearest."""
    found = {recipe.name: recipe for recipe in packaged_recipes()}
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(found)}."
        raise RecipeError(f"There is no recipe {name!r}; {hint}")
    return found[name]


def _folder() -> Path:
    """Inside the package of a wheel, beside it in a checkout."""
    import posttrain

    return next(path for part in posttrain.__path__ if (path := Path(part) / "recipes").is_dir())
