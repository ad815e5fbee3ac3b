"""Content addresses: of plain values and of files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_code(*packages: ModuleType) -> str:
    """sha256 of all Python files of some packages, with their places."""
    folders = [Path(next(iter(package.__path__))) for package in packages]
    modules = [(path, folder) for folder in folders for path in sorted(folder.rglob("*.py"))]
    return digest_of(
        [[path.relative_to(folder).as_posix(), path.read_text("utf-8")] for path, folder in modules]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")
