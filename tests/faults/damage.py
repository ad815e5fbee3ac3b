"""Five ways in which a file comes to harm."""

import shutil
from collections.abc import Callable
from pathlib import Path


def missing(path: Path, _: Path) -> None:
    path.unlink()


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def one_bit(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def swapped(path: Path, other: Path) -> None:
    """With the same file of another step."""
    shutil.copyfile(other, path)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "missing": missing, "cut": cut, "one bit": one_bit, "empty": empty, "swapped": swapped,
}  # fmt: skip


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
