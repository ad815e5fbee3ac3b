"""`posttrain serve`: an OpenAI-compatible server for every stage of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import SettingError

_KEY = "POSTTRAIN_API_KEY"
_SHORTEST_KEY = 16


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN...]", help="Run folders on one base.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than loopback need --allow-host.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"A file with the key; else {_KEY}, else a new one is made and printed."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address, without a port, that clients ask for. May be repeated."),
    ] = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option(help="A folder from which adapters may be loaded while it serves. May be repeated."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Load stages that are no plain LoRA, too, each with weights of its own."
        ),
    ] = False,
) -> None:
    """Answer by the OpenAI API for every stage of the runs by its name, on one copy of their base."""
    from posttrain.pipeline import Run
    from posttrain.web import LOOPBACK_HOSTS, Guard, check_address, check_installed
    from posttrain.web import serve as listen

    check_installed("posttrain serve")
    key, made = _key(api_key_file)
    hosts = (*LOOPBACK_HOSTS, *_hosts(host, allow_host or []))
    check_address(host, port, key)
    loaded = [Run.load(run) for run in runs]

    from posttrain.serving.app import make_app
    from posttrain.serving.bank import Bank, load_runs

    bank = Bank(whole=whole)
    try:
        load_runs(bank, loaded, print)
        print(f"Models: {', '.join(one.name for one in bank)}")
        folders = [*(run.folder for run in loaded), *(adapters or [])]

        def ready(address: str) -> None:
            print(f"Listening on {address}/v1", flush=True)
            if made:
                print(f"API key, made for this start: {key}", flush=True)

        listen(Guard(make_app(bank, folders), token=key, hosts=hosts), host, port, ready)
    finally:
        bank.close()


def _key(file: Path | None) -> tuple[str, bool]:
    """(the key, whether it was made here)."""
    from posttrain.web import new_token

    if file is not None:
        try:
            given = file.expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"--api-key-file {file} cannot be read ({type(error).__name__}).") from error
    elif (given := os.environ.get(_KEY, "").strip()) == "":
        return new_token(), True
    if len(given) < _SHORTEST_KEY or not given.isascii() or not given.isprintable() or " " in given:
        raise SettingError(
            f"The key in {file or _KEY} must be {_SHORTEST_KEY} or more printable ASCII characters without spaces."
        )
    return given, False


def _hosts(host: str, allowed: list[str]) -> list[str]:
    """The names, beside those of loopback, that a request may be addressed to."""
    from posttrain.web import is_loopback

    if is_loopback(host):
        return allowed
    if host in ("0.0.0.0", "::", "") and not allowed:
        raise SettingError(
            f"--host {host} listens everywhere; say with --allow-host which names clients ask for."
        )
    return [*allowed, f"[{host}]" if ":" in host else host]
