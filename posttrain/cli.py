"""The command line. Nothing heavy is imported for `posttrain --help`, so that it answers at once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from posttrain.commands.chat import chat
from posttrain.commands.clean import clean
from posttrain.commands.compare import compare
from posttrain.commands.doctor import doctor
from posttrain.commands.export import export
from posttrain.commands.init import init
from posttrain.commands.inspect import inspect
from posttrain.commands.listings import formats, schema, strategies
from posttrain.commands.plan import explain, plan
from posttrain.commands.report import report
from posttrain.commands.resume import resume
from posttrain.commands.run import print_run, run
from posttrain.commands.runs import runs
from posttrain.commands.serve import serve
from posttrain.commands.show import show
from posttrain.commands.ui import ui
from posttrain.errors import GateError, PosttrainError

if TYPE_CHECKING:
    from posttrain.pipeline import Pipeline


class _Commands(TyperGroup):
    """Says which command a mistyped one is near to."""

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        name = arguments[0] if arguments else ""
        near = get_close_matches(name, self.commands, n=1)
        if near and name not in self.commands:
            context.fail(f"No such command {name!r}; did you mean {near[0]!r}?")
        return super().resolve_command(context, arguments)


app = typer.Typer(
    cls=_Commands,
    help="Post-training of language models: one Pipeline from raw text to an aligned model.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help takes as long to load as everything else
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    run, plan, explain, init, runs, show, report, compare, chat, serve, export, ui, resume, clean, inspect, strategies,
    formats, schema, doctor,
)  # fmt: skip
for command in _COMMANDS:
    flags_of_a_script = command in (run, plan, explain)
    app.command(
        context_settings={"ignore_unknown_options": flags_of_a_script, "allow_extra_args": flags_of_a_script}
    )(command)


def run_recipe(recipe: Callable[..., Pipeline]) -> None:
    """Make a recipe's parameters the flags of its script, build its pipeline, run it and print what it reached."""

    @functools.wraps(recipe)
    def command(*args: Any, **flags: Any) -> None:
        print_run(recipe(*args, **flags).run())

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
        from posttrain.pipeline.printing import printable
        from posttrain.pipeline.secrets import redacted

        print(f"{type(error).__name__}: {printable(redacted(str(error)))}", file=sys.stderr)
        sys.exit(3 if isinstance(error, GateError) else 2)


if __name__ == "__main__":
    main()
