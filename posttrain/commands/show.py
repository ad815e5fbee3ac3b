"""`posttrain show`: what each stage of a run made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.commands.output import AsJson, print_json

if TYPE_CHECKING:
    from posttrain.pipeline import Run


def show(run: Annotated[Path, typer.Argument(help="A run folder.")], json: AsJson = False) -> None:
    """Print what each stage of a run made: numbers before and after, rows, proofs."""
    from posttrain.pipeline import Run
    from posttrain.pipeline.printing import print_summary, printable
    from posttrain.pipeline.run_list import read_state

    found = Run.load(run)
    if json:
        print_json(_as_dict(found))
    else:
        print_summary(found)
        state = read_state(found.folder)
        if state.status != "finished":
            typer.echo(
                printable(f"This run is {state.status}, in stage {state.last_stage}. {state.error}".rstrip())
            )


def _as_dict(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "stages": [
            {
                "name": record.name, "type": record.type, "folder": str(record.folder), "seconds": record.seconds,
                "metrics": dict(record.metrics), "rows": record.row_counts, "proofs": dict(record.proofs),
                "samples": list(record.samples), "settings": list(record.settings),
            }
            for record in run
        ],
    }  # fmt: skip
