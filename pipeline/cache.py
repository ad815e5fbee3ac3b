"""What is kept per user and can always be made again: converted models, token tables, digests of large files."""

import json
import os
from pathlib import Path

from .digests import digest_of, sha256_of
from .durable import write_json


def cache_folder() -> Path:
    """Where converted models and file digests are kept: $POSTTRAIN_CACHE, else ~/.cache/posttrain."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain"
    return Path(os.environ.get("POSTTRAIN_CACHE") or default)


def remembered_sha256(path: Path) -> str:
    """sha256 of a large file, remembered by its path, size, modification time and inode.

    sha256 reads about 0.5 GB/s and a base model has many GB, which every start would pay again.
    """
    path = path.resolve()
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    note = cache_folder() / "digests" / f"{digest_of(state)[:32]}.json"
    try:
        return str(json.loads(note.read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        value = sha256_of(path)
        write_json(note, {"file": str(path), "bytes": stat.st_size, "sha256": value})
        return value
