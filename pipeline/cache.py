"""What is kept per user and can always be made again: converted models, token tables, digests of large files."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from posttrain.errors import CorruptArtifactError

from .digests import digest_of, sha256_of
from .durable import commit_folder, remove_leftovers, set_aside, verify_folder, write_json

_LARGE = 2**26  # bytes; what is read in a tenth of a second is read
_SETTLED = 2.0  # seconds; a file that has just been written may change again within its clock's step


def cache_folder() -> Path:
    """Where converted models and file digests are kept: $POSTTRAIN_CACHE, else ~/.cache/posttrain."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain"
    return Path(os.environ.get("POSTTRAIN_CACHE") or default)


def keep_folder(folder: Path, fill: Callable[[Path], None]) -> bool:
    """Have `folder` whole: verified if it is there, else made by `fill`; a damaged one is put aside.

    Returns whether it was made now.

    By one process at a time: the others wait, and find it made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(folder.parent, folder.name)
        missing = not _is_whole(folder)
        if missing:
            for name, entry in commit_folder(folder, fill)["files"].items():
                if entry["bytes"] > _LARGE:
                    _remember(folder / name, entry["sha256"])
        return missing
    finally:
        os.close(lock)


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        verify_folder(folder, _sha256)
    except CorruptArtifactError:
        set_aside(folder)
        return False
    return True


def _sha256(path: Path) -> str:
    return remembered_sha256(path) if path.stat().st_size > _LARGE else sha256_of(path)


def remembered_sha256(path: Path) -> str:
    """sha256 of a large file, remembered by its path, size, modification time and inode.

    sha256 reads about 0.5 GB/s and a base model has many GB, which every start would pay again.
    """
    try:
        return str(json.loads(_note(path).read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        value = sha256_of(path)
        if time.time() - path.stat().st_mtime > _SETTLED:
            _remember(path, value)
        return value


def _remember(path: Path, sha256: str) -> None:
    write_json(_note(path), {"file": str(path.resolve()), "bytes": path.stat().st_size, "sha256": sha256})


def _note(path: Path) -> Path:
    """Where the digest of a file in its present state is kept."""
    path = path.resolve()
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return cache_folder() / "digests" / f"{digest_of(state)[:32]}.json"
