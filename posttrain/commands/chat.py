"""`posttrain chat`: talk with any stage of a run, or with two side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.errors import DataError, NoSuchStageError, StrategyError

if TYPE_CHECKING:
    from posttrain.serving.talk import Talk


def chat(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN[:STAGE]", help="A run folder; the last policy, or a stage's, or base."),
    ],
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0: the likeliest token each time.")
    ] = 0.7,
) -> None:
    """Talk with a stage of a run. /help lists what can be typed; answers come as they are made."""
    from posttrain.pipeline import Run

    folder, stage = _split(run)
    loaded = Run.load(folder)

    from posttrain.serving.bank import Bank, offers
    from posttrain.serving.engine import Limits
    from posttrain.serving.talk import Talk

    there = {offer.name: offer for offer in offers([loaded])}
    last = next((name for name, offer in there.items() if offer.ref == loaded.model), "base")
    bank = Bank(Limits(rows=2, seconds=3600.0), whole=True)
    try:
        _talk(Talk(bank, there, stage or last, max_tokens, temperature))
    finally:
        bank.close()


def _split(run: str) -> tuple[Path, str]:
    """RUN:STAGE, where the whole is no folder."""
    folder, colon, stage = run.rpartition(":")
    return (Path(folder), stage) if colon and not Path(run).exists() else (Path(run), "")


def _talk(talk: Talk) -> None:
    typed = sys.stdin.isatty()
    if typed:
        print(f"{talk.command('/help')}", flush=True)
    while True:
        try:
            line = input(f"{talk.name}> " if typed else "").strip()
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                print(talk.command(line), flush=True)
            elif line:
                _answer(talk, line)
        except EOFError:
            return
        except KeyboardInterrupt:  # ends the answer, not the conversation
            if not typed:
                raise
            print()
        except (DataError, NoSuchStageError, StrategyError) as error:
            print(error, file=sys.stderr, flush=True)


def _answer(talk: Talk, line: str) -> None:
    (name, answer), *other = talk.answers(line)
    if not other:
        _print_stream(answer)
    else:
        _print_beside([(name, answer), *other])


def _print_stream(answer: Iterator[str]) -> None:
    from posttrain.pipeline.printing import printable

    for part in answer:
        print(printable(part), end="", flush=True)
    print()


def _print_beside(answers: list[tuple[str, Iterator[str]]]) -> None:
    """Both in columns, redrawn as they grow; into a pipe, one under the other."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from posttrain.commands.output import console
    from posttrain.pipeline.printing import printable

    said = {name: "" for name, _ in answers}

    def table() -> Table:
        shown = Table(*said, box=None, expand=True, padding=(0, 2, 0, 0))
        shown.add_row(*(Text(text) for text in said.values()))
        return shown

    screen = console()
    if not screen.is_terminal:
        for name, answer in answers:
            print(f"[{name}]")
            _print_stream(answer)
        return
    left = dict(answers)
    with Live(table(), console=screen, auto_refresh=False) as live:
        while left:
            for name in list(left):
                part = next(left[name], None)
                if part is None:
                    del left[name]
                else:
                    said[name] += printable(part)
                    live.update(table(), refresh=True)
