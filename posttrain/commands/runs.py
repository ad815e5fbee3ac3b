"""`posttrain runs`: the runs below a folder and how each stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.commands.output import AsJson, as_bytes, as_time, console, print_json

if TYPE_CHECKING:
    from posttrain.pipeline.run_list import RunState


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"), json: AsJson = False
) -> None:
    """List the runs below a folder: finished, running, stopped, failed or damaged; last stage, when, size."""
    from posttrain.pipeline.run_list import find_runs, read_state

    states = sorted((read_state(run) for run in find_runs(folder)), key=lambda state: -state.changed)
    if json:
        print_json([_as_dict(state) for state in states])
        return
    if not states:
        print(f"There is no run below {folder.resolve()}.")
        return
    _print(states, folder.resolve())


def _as_dict(state: RunState) -> dict[str, Any]:
    return {
        "folder": str(state.folder), "status": state.status, "stages": state.stages, "finished": state.finished,
        "last_stage": state.last_stage, "changed": state.changed, "bytes": state.bytes, "error": state.error,
    }  # fmt: skip


def _print(states: list[RunState], folder: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from posttrain.pipeline.printing import printable

    table = Table(
        "run",
        "status",
        "stages",
        "last stage",
        "changed",
        "size",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    out = console()
    for state in states:
        done = f"{len(set(state.stages) & set(state.finished))} of {len(state.stages)}"
        name = state.folder.relative_to(folder).as_posix() if state.folder != folder else state.folder.name
        table.add_row(
            Text(printable(name)),
            state.status,
            done,
            state.last_stage,
            as_time(state.changed),
            as_bytes(state.bytes),
        )
    out.print(table)
    for state in states:
        if state.error:
            out.print(printable(f"{state.folder.name}: {state.error}"), markup=False)
