"""An end for chat templates that do not end: the sandbox keeps them from files and code, but not from loops.

One thread watches all renders of the process, so that this holds in servers and worker threads, where no signal goes.
Python delivers the exception between two of its own instructions; what one instruction does (a power of large numbers,
a text of gigabytes) is found before, by the trial of `pipeline.template_trial`.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 30.0  # for one dialogue; templates need milliseconds
_LOOKS = 0.2  # seconds between two looks


class TookTooLong(Exception):
    """Raised in the thread that renders, by the watch."""


class _Watch:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, float] = {}  # by the thread that renders
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        me = threading.get_ident()
        if me in self._until:  # inside another one, which goes on watching
            yield
            return
        with self._lock:
            self._until[me] = time.monotonic() + seconds
            if (
                self._thread is None or not self._thread.is_alive()
            ):  # also after a fork, which takes no thread along
                self._thread = threading.Thread(target=self._look, name="template watch", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                ended = self._until.pop(me, None) is None
            if ended:  # it may not have come yet, and must not come later
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), None)
        if ended:
            raise TookTooLong

    def _look(self) -> None:
        while True:
            time.sleep(_LOOKS)
            with self._lock:
                late = [thread for thread, until in self._until.items() if time.monotonic() > until]
                for thread in late:
                    del self._until[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(TookTooLong)
                    )
                if not self._until:
                    self._thread = None
                    return


_WATCH = _Watch()


@contextmanager
def limited() -> Iterator[None]:
    """Raises TookTooLong inside when a render takes longer than SECONDS."""
    with _WATCH.over(SECONDS):
        yield
