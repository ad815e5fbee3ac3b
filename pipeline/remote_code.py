"""The one switch by which Python code that lies beside a model's weights may run. Off, and no file can turn it on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.errors import ModelError, SettingError

SWITCH = "POSTTRAIN_TRUST_REMOTE_CODE"


def trusts_remote_code() -> bool:
    """Whether who started this program has read a model's code and lets it run.

    It stands in the environment and is no setting: recipes, run folders and models come from other people.
    """
    given = os.environ.get(SWITCH, "")
    if given not in ("", "0", "1"):
        raise SettingError(f"{SWITCH}={given!r}: it is 1 for on, and 0 or unset for off.")
    return given == "1"


@contextmanager
def code_refused(folder: Path | str) -> Iterator[None]:
    """Turns what transformers says of a model that needs its own code into a ModelError that names the switch."""
    try:
        yield
    except (ValueError, OSError) as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelError(
            f"The model in {folder} can only be read by Python code of its own, which is not run; take a model that "
            f"transformers knows, or read that code and, if you trust it, set {SWITCH}=1 in the environment."
        ) from None
