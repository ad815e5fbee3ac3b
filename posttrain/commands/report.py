"""`posttrain report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import DiskSpaceError, SettingError


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; report.html in the run folder if not given.")] = None,
) -> None:  # fmt: skip
    """Write the report of a run, finished or not: one page that opens from disk and loads nothing."""
    from posttrain.report import write_report

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise SettingError(
            f"--out {out}: the page is written over what is there; give a name ending in .html."
        )
    try:
        print(write_report(run.expanduser().resolve(), out))
    except DiskSpaceError:
        raise
    except OSError as error:
        raise SettingError(
            f"The report cannot be written ({error}); choose another place with --out."
        ) from error
