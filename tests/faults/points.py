"""Persistence points: whatever a process does to files below its folders, numbered, and something that happens at one.

Python says by itself what it opens, renames, makes and removes (`sys.addaudithook`); fsync and the writers of tensors
are wrapped. Nothing in the library knows of it.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

Way = Literal["count", "kill", "power cut", "ENOSPC", "EROFS", "EIO"]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AT = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 2,
    "os.truncate": None,
    "os.link": 2,
}  # dir_fd


@dataclass
class Points:
    """Of one process; its journal says which it has passed."""

    folders: tuple[str, ...]
    journal: int  # a descriptor
    at: int
    way: Way
    count: int = 0
    off: bool = False

    def __post_init__(self) -> None:
        self.synced: dict[int, int] = {}  # inode -> bytes that a power cut leaves
        for path in self._files():
            self.synced[path.stat().st_ino] = path.stat().st_size

    def install(self) -> None:
        import safetensors.torch
        import torch

        real, write_tensors, write_torch = (
            os.fsync,
            safetensors.torch.serialize_file,
            torch.serialization._save,
        )

        def fsync(descriptor: Any) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = os.readlink(f"/proc/self/fd/{number}")
            self.passed("fsync", path)
            real(number)
            if path.startswith(self.folders):
                stat = os.fstat(number)
                self.synced[stat.st_ino] = stat.st_size

        def serialize(tensors: Any, file: Any, *more: Any, **named: Any) -> Any:
            self.passed("write", str(file), tensors=True)
            return write_tensors(tensors, file, *more, **named)

        def save(*given: Any, **named: Any) -> Any:
            self.passed("write", getattr(given[1], "_name", "") or f"{self.folders[0]}/torch")
            return write_torch(*given, **named)

        os.fsync, safetensors.torch.serialize_file, torch.serialization._save = fsync, serialize, save
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if self.off or (event != "open" and event not in _AT) or isinstance(given[0], int):
            return
        if event == "open":
            if not given[2] & _WRITES:
                return
        elif (place := _AT[event]) is not None and len(given) > place and given[place] >= 0:
            folder = os.readlink(f"/proc/self/fd/{given[place]}")
            given = (f"{folder}/{os.fsdecode(given[0])}", *given[1:])
        path = os.fsdecode(given[0])
        self.passed(event, path)
        if (
            event == "open"
            and given[2] & os.O_TRUNC
            and path.startswith(self.folders)
            and os.path.exists(path)
        ):
            self.synced[os.stat(path).st_ino] = 0

    def passed(self, what: str, path: str, tensors: bool = False) -> None:
        """Called before the thing is done."""
        if self.off or not path.startswith(self.folders):
            return
        self.count += 1
        os.write(self.journal, f"{self.count} {what} {path}\n".encode())
        if self.way in ("kill", "power cut") and self.count == self.at:
            self.off = True
            if self.way == "power cut":
                self._cut()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fails(what):
            number = getattr(errno, self.way)
            if tensors:
                raise OSError(f"I/O error: {os.strerror(number)} (os error {number})")
            raise OSError(number, os.strerror(number), path)

    def _fails(self, what: str) -> bool:
        """A full disk still removes and renames, one that went read-only does nothing more, and EIO comes once."""
        if self.way == "EIO":
            return self.count == self.at
        if self.way == "ENOSPC":
            return self.count >= self.at and what not in ("os.remove", "os.rmdir", "os.rename", "os.truncate")
        return self.way == "EROFS" and self.count >= self.at

    def _cut(self) -> None:
        """What was written and not synced is lost."""
        for path in self._files():
            stat = path.stat()
            if (kept := self.synced.get(stat.st_ino, 0)) < stat.st_size:
                os.truncate(path, kept)

    def _files(self) -> Iterable[Path]:
        return (path for folder in self.folders for path in Path(folder).rglob("*") if path.is_file())


def _arm(folder: Path, *, journal: str, at: int, way: Way, more: tuple[str, ...]) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    Points((str(folder), *more), descriptor, at, way).install()


def points(
    journal: Path, at: int = 0, way: Way = "count", more: tuple[Path, ...] = ()
) -> Callable[[Path], None]:
    """What to arm a process with: at its `at`-th point in the run folder, or in `more`, that happens."""
    return partial(_arm, journal=str(journal), at=at, way=way, more=tuple(map(str, more)))
