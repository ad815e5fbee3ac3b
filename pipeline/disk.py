"""Whether the disk will hold what is about to be written."""

import shutil
from pathlib import Path

from posttrain.errors import DiskSpaceError

_RESERVE = 1.2  # file systems need room of their own, and estimates err


def check_disk(
    folder: Path, needed_bytes: int, what: str = "this run", advice: str = "choose another run_dir"
) -> None:
    """Raises DiskSpaceError when `folder`'s disk has less than 1.2 times the bytes that `what` will write."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * _RESERVE:
        raise DiskSpaceError(
            f"The disk of {folder} has {free / 1e9:.2f} GB free, and {what} will need up to "
            f"{needed_bytes * _RESERVE / 1e9:.2f} GB; free some space or {advice}. Nothing was started."
        )
