"""`posttrain compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.commands.output import AsJson, console, print_json
from posttrain.errors import SettingError


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    json: AsJson = False,
) -> None:
    """Print the metrics of runs side by side, and the settings in which they differ."""
    from posttrain.pipeline import Run
    from posttrain.pipeline.comparison import compare

    if len(runs) < 2:
        raise SettingError(
            f"compare takes two runs and more, and there is {len(runs)}; for one there is posttrain show."
        )
    loaded = [Run.load(run) for run in runs]
    found = compare(loaded)
    if json:
        print_json(
            {
                "runs": [str(run.folder) for run in loaded],
                "metrics": found.metrics,
                "settings": found.settings,
            }
        )
        return
    names = _short([run.folder for run in loaded])
    for title, table in (("Metrics", found.metrics), ("Settings that differ", found.settings)):
        if table:
            _print(title, names, table)
    if not found.settings:
        print("No setting differs in the stages that the runs share.")


def _short(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths that tell them apart."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else ["/".join(folder.parts[-2:]) for folder in folders]


def _print(title: str, names: Sequence[str], table: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(
        "stage",
        "",
        *names,
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    for stage, rows in table.items():
        first = stage
        for name, values in rows.items():
            shown.add_row(first, name, *map(_cell, values))
            first = ""
    console().print(shown, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
