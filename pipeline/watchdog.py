"""A rank that stands still must not keep the others waiting: each gives a sign of life, and they end when one's stops."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from posttrain.errors import SettingError

from .ranks import Ranks

ALIVE = ".alive"  # the folder of these files
_EVERY = 1.0  # seconds between two signs of life
_PATIENCE = 300.0  # seconds without one; shared file systems show a new time up to a minute late
_PATIENCE_VARIABLE = "POSTTRAIN_WATCHDOG"


class Watchdog:
    """While entered, a thread touches this rank's file in the run folder and looks at the others'.

    A collective waits half an hour for a rank that was stopped or hangs. It is gone on with by the same command, so the
    others need not wait: they say which one it is, end it where they can, and end. Alone, a process is not watched.
    """

    def __init__(self, ranks: Ranks, folder: Path) -> None:
        self._ranks, self._folder = ranks, folder / ALIVE
        self._patience = _patience()
        self._left = threading.Event()

    def __enter__(self) -> Self:
        if self._ranks.size > 1:
            self._folder.mkdir(exist_ok=True)
            self._file(self._ranks.rank).write_text(f"{os.getpid()} {socket.gethostname()}")
            self._ranks.barrier()  # from here on every rank has a file, until it leaves
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._ranks.size > 1:
            with suppress(OSError):
                self._file(self._ranks.rank).unlink()
                self._folder.rmdir()  # by the last that leaves

    def _file(self, rank: int) -> Path:
        return self._folder / str(rank)

    def _watch(self) -> None:
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank]
        # Of each, its latest sign and our looks since. Looks, not seconds: a job that was suspended as a whole, and goes
        # on an hour later, has nobody who stands still.
        seen = dict.fromkeys(others, (0, 0))
        while not self._left.wait(_EVERY):
            with suppress(OSError):
                os.utime(self._file(self._ranks.rank))  # takes no room, so a full disk says nothing
            for rank in others:
                try:
                    sign = self._file(rank).stat().st_mtime_ns
                except OSError:
                    continue  # it has left, or the disk is gone for all
                latest, looks = seen[rank]
                seen[rank] = (sign, looks + 1 if sign == latest else 0)
                if seen[rank][1] * _EVERY > self._patience:
                    self._end(rank)

    def _end(self, rank: int) -> None:
        print(
            f"Rank {rank} has given no sign of life for {self._patience:.0f} s, so rank {self._ranks.rank} ends; what was "
            "committed is whole. Run the same command again to go on.",
            file=sys.stderr,
            flush=True,
        )
        with suppress(OSError, ValueError):
            pid, host = self._file(rank).read_text().split(maxsplit=1)
            if host == socket.gethostname():
                os.kill(int(pid), signal.SIGKILL)  # a stopped process would never let its launcher end
        os._exit(1)


def _patience() -> float:
    """Seconds. Raises SettingError for a variable that says no time."""
    given = os.environ.get(_PATIENCE_VARIABLE, str(_PATIENCE))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise SettingError(f"{_PATIENCE_VARIABLE}={given!r}: it is a number of seconds above 0, such as 300.")
    return seconds
