"""`posttrain strategies`, `posttrain formats`, `posttrain schema`: what there is, from the code."""

from __future__ import annotations

from typing import Annotated

import typer

from posttrain.commands.output import console, print_json


def strategies(
    markdown: Annotated[bool, typer.Option("--markdown", help="Prints the page docs/strategies.md.")] = False,
) -> None:
    """Print what each strategy can do."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import COLUMNS, answers, as_markdown

    if markdown:
        print(as_markdown(SHIPPED), end="")
        return
    table = Table(box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    table.add_column("strategy", no_wrap=True)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, width=max(map(len, heading.split())))
    for kind in SHIPPED:
        table.add_row(kind.__name__, *answers(kind.capabilities))
    out = console()
    out.print(table)
    for heading, _, meaning in COLUMNS:
        out.print(f"{heading}: {meaning}")


def formats() -> None:
    """Print the data formats: name, what Data(format=...) may call it, kind of rows, and how a row looks."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from posttrain.data_formats.formats.registry import formats

    table = Table("format", "or", "kind", "a row", box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for one in formats():
        table.add_row(one.name, one.family, one.kind, Text(one.shape))
    console().print(table)


def schema() -> None:
    """Print the JSON schema of recipe files, for editors."""
    from posttrain.recipe_files.schema import schema

    print_json(schema())
