"""`posttrain inspect`: what is in a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.commands.output import AsJson


def inspect(
    file: Annotated[str, typer.Argument(help="A data file, a folder of them, or a data set of the Hub.")],
    model: Annotated[str | None, typer.Option(help="Shows the tokens of this model, and which are trained: a folder, a Hub id, or 'embedded'.")] = None,
    kind: Annotated[str | None, typer.Option(help="What it is read as: text, conversation, preference, unpaired, prompt, labelled, tagged. Found out if not given.")] = None,
    format: Annotated[str | None, typer.Option(help="A data format by its name. Found out if not given.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens of a row, with --model; 1024 if not given.")] = None,
    rows: Annotated[int | None, typer.Option(min=0, help="How many rows are shown, with --model; 3 if not given.")] = None,
    html: Annotated[Path | None, typer.Option(help="Writes it as a page, too.")] = None,
    json: AsJson = False,
) -> None:  # fmt: skip
    """Print what is in a data file: format, bad rows, duplicates, lengths; with --model the tokens that are trained.

    Exit code 0: all rows are good. 1: some are bad. 2: the file cannot be read.
    """
    from posttrain.inspecting import inspect_file

    good = inspect_file(
        file, model=model, kind=kind, format=format, max_length=max_length, rows=rows, page=html, json=json
    )
    raise typer.Exit(0 if good else 1)
