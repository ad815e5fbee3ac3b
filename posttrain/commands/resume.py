"""`posttrain resume`: start a run again as it was started, from what its folder keeps."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import RunFolderError


def resume(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Start a run again as it was started: its YAML from the run folder, or its script. Finished stages are kept.

    A run folder says what is started, so resume only those that you trust.
    """
    from posttrain.pipeline.launch import Launch, Started
    from posttrain.pipeline.run_list import read_state

    folder = read_state(run).folder
    launch = Launch.read(folder)
    if launch is None:
        raise RunFolderError(
            f"{folder} does not say how it was started (it is of an older version); run its recipe again."
        )
    started: Started = launch.started
    if not Path(started.folder).is_dir():
        raise RunFolderError(
            f"{folder} was started in {started.folder}, which is there no more; run its recipe again."
        )
    if started.why_not:
        raise RunFolderError(
            f"{folder} cannot be resumed from here: {started.why_not}. Run it again in the same way."
        )
    if started.processes > 1:
        raise RunFolderError(
            f"{folder} was started with {started.processes} processes; start it with the same launcher again, as in: accelerate "
            f"launch --num_processes {started.processes} {_as_written(started.words) or f'-m posttrain run {started.recipe_name}'}"
        )
    os.chdir(started.folder)
    if started.recipe:
        _resume_recipe(folder, started.recipe, started.recipe_name, started.changes)
    else:
        _resume_script(folder, started.words)


def _as_written(words: tuple[str, ...]) -> str:
    return shlex.join(words)


def _resume_recipe(folder: Path, text: str, name: str, changes: tuple[str, ...]) -> None:
    from posttrain.commands.run import run_and_print
    from posttrain.recipe_files import build, changed, read_yaml

    elsewhere = [change for change in changes if not change.startswith("run_dir=")]
    there = (*elsewhere, f"run_dir={json.dumps(str(folder))}")
    run_and_print(build(changed(read_yaml(text, name), there)), text, name, changes)


def _resume_script(folder: Path, words: tuple[str, ...]) -> None:
    if words[0] != "-m" and not Path(words[0]).is_file():
        raise RunFolderError(f"{folder} was started by {words[0]}, which is there no more.")
    print(f"In {Path.cwd()}: python {_as_written(words)}", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, *words])
