"""Who hears that a run folder has news: the report page."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

Watcher = Callable[[Path], None]  # takes the run folder

_SECONDS = 15.0  # between two calls while a stage trains
_SHARE = 0.01  # of the time that watchers may take while a stage trains


def _report(run_dir: Path) -> None:
    # By name and late: the report reads run folders, so it knows the pipeline, and the pipeline not it.
    import_module("posttrain.report").write_report(run_dir)


_watchers: list[Watcher] = [_report]  # called in the process that writes the run folder, between two steps


class Watch:
    """Calls the watchers of one run. What fails there is said once and stops nothing."""

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self._run_dir, self._say = run_dir, say
        self._said: set[str] = set()
        self._not_before = time.monotonic() + _SECONDS

    def changed(self) -> None:
        """A step was written: call them, unless they were called a moment ago."""
        if time.monotonic() >= self._not_before:
            self.now()

    def now(self) -> None:
        """Call them."""
        begun = time.monotonic()
        for watcher in _watchers:
            try:
                watcher(self._run_dir)
            except Exception as error:  # whatever it is, training is worth more
                self._report(f"{type(error).__name__}: {error}")
        done = time.monotonic()
        self._not_before = done + max(_SECONDS, (done - begun) / _SHARE)

    def _report(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            self._say(f"the report was not written ({why}); training goes on")
