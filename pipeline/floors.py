"""Versions below which a prepared file can run code, however carefully it is read."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from posttrain.errors import ConfigurationError

# torch: CVE-2026-24747 (weights_only). transformers: CVE-2026-1839 (rng_state.pth). jinja2: CVE-2025-27516 (sandbox).
FLOORS = {"torch": (2, 10), "transformers": (5, 0), "jinja2": (3, 1, 6)}


@cache
def check_floors() -> None:
    """Raises ConfigurationError for an installed version that is too old; pip keeps none, and `--no-deps` may."""
    for package, floor in FLOORS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            continue  # what needs it says so
        if _numbers(found) < floor:
            needed = ".".join(map(str, floor))
            raise ConfigurationError(
                f"{package} {found} is installed, and versions below {needed} let a prepared model file run code; run: "
                f"pip install '{package}>={needed}'"
            )


def _numbers(text: str) -> tuple[int, ...]:
    """(2, 10, 0) of "2.10.0+cpu", and of "2.10.0rc1"."""
    found = []
    for part in text.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    return tuple(found)
