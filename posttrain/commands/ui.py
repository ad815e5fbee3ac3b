"""`posttrain ui`: the local page for runs, data and chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import SettingError


def ui(
    folder: Annotated[Path, typer.Argument(help="Where the runs are; made if it is not there.")] = Path(
        "runs"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="A free one if not given.")] = 0,
) -> None:
    """Show runs, start, stop and resume them, look at data and talk to models, on a page of this machine.

    It answers on 127.0.0.1 and only to who has the address with its token. Runs go on when it is ended.
    """
    from posttrain.web import check_installed, new_token, serve

    check_installed("posttrain ui")
    from posttrain.ui.app import Site

    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"The folder of the runs, {folder}, cannot be made ({error.strerror}).") from error
    token = new_token()

    def ready(
        address: str,
    ) -> None:  # the page is not opened from here: other users can read the words of a command
        print(f"posttrain ui: {address}/?token={token}\nCtrl-C ends the page; runs go on.", flush=True)

    serve(Site.of(folder).guarded(token), port=port, ready=ready)
