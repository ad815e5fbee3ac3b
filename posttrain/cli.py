"""The command line. Nothing heavy is imported for `posttrain --help`, so that it answers at once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.errors import GateError, PosttrainError

if TYPE_CHECKING:
    from posttrain.pipeline import Pipeline

app = typer.Typer(
    help="Post-training of language models: one Pipeline from raw text to an aligned model.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Print what each stage of a run made: numbers before and after, rows, proofs."""
    from posttrain.pipeline import Run
    from posttrain.pipeline.printing import print_summary

    print_summary(Run.load(run))


@app.command()
def strategies(
    markdown: Annotated[bool, typer.Option("--markdown", help="Prints the page docs/strategies.md.")] = False,
) -> None:
    """Print what each strategy can do."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import COLUMNS, answers, as_markdown

    if markdown:
        print(as_markdown(SHIPPED), end="")
        return
    table = Table(box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    table.add_column("strategy", no_wrap=True)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, min_width=max(map(len, heading.split())))
    for kind in SHIPPED:
        table.add_row(kind.__name__, *answers(kind.capabilities))
    console = Console()
    console.width = max(console.width, 80)  # a narrower terminal wraps lines; nothing is left out
    console.print(table)
    for heading, _, meaning in COLUMNS:
        console.print(f"{heading}: {meaning}", highlight=False)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A data file, a folder of them, or a data set of the Hub.")],
    model: Annotated[str | None, typer.Option(help="Shows the tokens of this model, and which are trained: a folder, a Hub id, or 'embedded'.")] = None,
    kind: Annotated[str | None, typer.Option(help="What it is read as: text, conversation, preference, unpaired, prompt, labelled, tagged. Found out if not given.")] = None,
    format: Annotated[str | None, typer.Option(help="A data format by its name. Found out if not given.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens of a row, with --model; 1024 if not given.")] = None,
    rows: Annotated[int | None, typer.Option(min=0, help="How many rows are shown, with --model; 3 if not given.")] = None,
    html: Annotated[Path | None, typer.Option(help="Writes it as a page, too.")] = None,
) -> None:  # fmt: skip
    """Print what is in a data file: format, bad rows, duplicates, lengths; with --model the tokens that are trained.

    Exit code 0: all rows are good. 1: some are bad. 2: the file cannot be read.
    """
    from posttrain.inspecting import inspect_file

    good = inspect_file(
        file, model=model, kind=kind, format=format, max_length=max_length, rows=rows, page=html
    )
    raise typer.Exit(0 if good else 1)


@app.command()
def plan(
    memory: Annotated[str, typer.Option(help="Of the GPU, such as 8GB or 24GiB, both in units of 2^30 bytes.")],
    model: Annotated[str, typer.Option(help="A size (1B 3B 7B 8B 13B 14B 30B 32B 70B), a folder with a config.json, a Hub id in the local cache, or 'embedded'.")],
    stage: Annotated[str, typer.Option(help="What is trained: SFT, CPT, RewardModel, DPO, KTO, ORPO, PPO, GRPO, RLOO.")] = "SFT",
    max_length: Annotated[int, typer.Option(min=2, help="Tokens of the longest row.")] = 1024,
) -> None:  # fmt: skip
    """Print what auto(memory) would choose for a model, and what each way to train it would need. Loads no weights.

    Exit code 0: there is a choice. 1: nothing fits. 2: the question cannot be answered.
    """
    from posttrain.planning import print_choices

    raise typer.Exit(0 if print_choices(memory, model, stage, max_length) else 1)


def run_recipe(recipe: Callable[..., Pipeline]) -> None:
    """Make a recipe's parameters the flags of its script, build its pipeline, run it and print what it reached."""

    @functools.wraps(recipe)
    def command(*args: Any, **flags: Any) -> None:
        from posttrain.pipeline.printing import print_summary

        print_summary(recipe(*args, **flags).run())

    _guarded(lambda: typer.run(command))


def main() -> None:
    """Run the command line."""
    _guarded(app)


def _guarded(command: Callable[[], Any]) -> None:
    """A user's error is one sentence and exit code 2, a gate's 3; an interruption ends with exit code 75."""
    try:
        command()
    except PosttrainError as error:
        if isinstance(error, SystemExit):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, GateError) else 2)


if __name__ == "__main__":
    main()
