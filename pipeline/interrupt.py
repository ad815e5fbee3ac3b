"""SIGTERM and Ctrl-C: the first asks to end after the current step, the second ends at once."""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from posttrain.errors import RunInterrupted

from .ranks import Ranks

EXIT_CODE = 75  # EX_TEMPFAIL: run the same command again
# Seconds. A launcher hands on to its processes what a terminal or a scheduler sent them already.
_ONE_SIGNAL = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, signals set `requested`; `raise_if_requested` ends the run where its state is whole.

    Outside the main thread Python allows no handlers; signals then keep their usual effect, which a run survives too.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.requested: str | None = None  # the name of the signal that this process was given
        self._since = 0.0  # when
        self._ranks = ranks or Ranks()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if isinstance(error, RunInterrupted) and self._ranks.main:
            print(error, file=sys.stderr)  # a script ends with the exit code alone

    def agreed(self) -> str | None:
        """The signal that some rank was given; all ranks must ask at the same moments."""
        return next((name for name in self._ranks.gather(self.requested) if name), None)

    def raise_if_requested(self, where: str) -> None:
        """Raises RunInterrupted (exit code 75) on all ranks when a signal has arrived at one."""
        if by := self.agreed():
            raise RunInterrupted(
                f"Stopped by {by} {where}; everything up to there is saved. "
                "Run the same command again to go on."
            )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._since < (_ONE_SIGNAL if self._ranks.size > 1 else 0):
            return
        if self.requested:
            os._exit(EXIT_CODE)  # nothing is half-written under its final name, so this is safe
        self.requested, self._since = signal.Signals(number).name, time.monotonic()
        # not print(): the signal may have come in the middle of one
        os.write(
            2,
            f"\n{self.requested}: finishing the current step and saving. Once more ends at once.\n".encode(),
        )
