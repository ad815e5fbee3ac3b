"""Reward functions in a recipe: one of posttrain's by its name, or one of the user's own as `module:name`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import posttrain
from posttrain.errors import RecipeError

REWARDS = ("accuracy_reward", "function_call_reward")


def find_function(written: str, place: str) -> Callable[..., Any]:
    """A reward that posttrain exports, or the function `name` of a Python file in the current folder; importing it runs it.

    Raises RecipeError for anything else: a recipe can name no other code.
    """
    if written in REWARDS:
        return getattr(posttrain, written)
    if not (match := re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", written)):
        raise RecipeError(
            f"{place}: a function is {' or '.join(REWARDS)}, or your own as 'module:name', such as 'rewards:polite', "
            f"and this is {written!r}."
        )
    module_name, name = match.groups()
    file = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
    if not file.is_file():
        raise RecipeError(
            f"{place}: there is no file {file}; 'module:name' names a function of a file in the current folder."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RecipeError(f"{place}: {file} cannot be imported ({type(error).__name__}: {error}).") from error
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise RecipeError(
            f"{place}: the name {module_name!r} belongs to {module.__file__}; rename {file.name}."
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"{place}: {file} has no function {name!r}.")
    return function
