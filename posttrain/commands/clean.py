"""`posttrain clean`: delete what runs need no more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.commands.output import as_bytes


def clean(
    folder: Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="A run folder, or a folder of them.")],
    older: Annotated[bool, typer.Option("--older", help="Finished stages of earlier settings, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Does not ask.")] = False,
) -> None:
    """Delete half-written files, unfinished stages of earlier settings and put-aside files; shows sizes, then asks.

    What a stopped run would go on from is kept, and runs that are at work are left alone. Exit code 1: nothing was
    deleted because the answer was no.
    """
    from posttrain.pipeline.cleaning import delete, left_alone, leftovers

    for state in left_alone(folder):
        print(f"{state.folder} is {state.status} and left alone.")
    found = leftovers(folder, older)
    for one in found:
        print(f"{as_bytes(one.bytes):>10}  {one.path}  ({one.why})")
    if not found:
        print("There is nothing to delete.")
        return
    total = as_bytes(sum(one.bytes for one in found))
    if not yes and not typer.confirm(f"Delete these {len(found)}, {total}?", default=False):
        print("Nothing was deleted.")
        raise typer.Exit(1)
    print(f"Deleted {as_bytes(delete(found))}.")
