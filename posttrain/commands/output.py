"""What the commands share in printing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON, for scripts.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Changes a YAML recipe: model=..., sft.epochs=3. May be repeated."
    ),
]


def print_json(value: Any) -> None:
    """Numbers that JSON has not (NaN) are written as null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def console() -> Console:
    """At least 80 columns wide: a narrower terminal wraps lines, and nothing is left out."""
    from rich.console import Console

    found = Console(highlight=False)
    found.width = max(found.width, 80)
    return found


def as_bytes(count: int) -> str:
    """In the unit that leaves few digits: "1.20 GB", "3.4 MB", "12 kB"."""
    for size, unit, digits in ((1e9, "GB", 2), (1e6, "MB", 1)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def as_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
