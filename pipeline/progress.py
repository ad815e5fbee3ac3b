"""One display over all stages: stage k of n, step, loss, tokens/s, time left; in a log file a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

_SECONDS_BETWEEN_LINES = 10
_log = logging.getLogger("posttrain")


@dataclass(frozen=True)
class Line:
    """What is shown of one stage."""

    text: str
    facts: str = ""
    done: int = 0
    total: int | None = None


class Screen(Protocol):
    """Where lines are shown; the last one is the stage at work."""

    def add(self, line: Line) -> None: ...

    def change(self, line: Line) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Display:
    """The progress display of one `run()`."""

    def __init__(self, stages: Sequence[str], *, shown: bool = True) -> None:
        self._stages = list(stages)
        self._shown = shown  # of several processes one speaks
        self._screen: Screen | None = None
        self._position = 0
        self._line = Line("")

    def __enter__(self) -> Self:
        self._screen = _screen() if self._shown else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen:
            self._screen.close()

    def begin_stage(self, position: int) -> None:
        """Stage `position` (from 0) starts."""
        self._position = position
        self._line = Line(self._label("preparing"))
        if self._screen:
            self._screen.add(self._line)

    def skip_stage(self, position: int) -> None:
        """Stage `position` was finished by an earlier run."""
        self.begin_stage(position)
        self._change(text=self._label("unchanged, skipped"), total=1, done=1)

    def phase(self, text: str) -> None:
        self._change(text=self._label(text))

    def begin_steps(self, done: int, total: int) -> None:
        self._change(text=self._label("training"), total=total, done=done)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = [f"{name} {metrics[name]:.4f}" for name in ("reward", "loss") if name in metrics][:1]
        shown += [f"{metrics['tokens_per_second']:.0f} tokens/s"] if "tokens_per_second" in metrics else []
        self._change(done=step, facts="  ".join(shown))

    def note(self, text: str) -> None:
        """Something that must be seen while the stages run; where nothing is live it goes to the log."""
        if self._screen and not isinstance(self._screen, _Lines):
            self._screen.note(f"{self._stages[self._position]}: {text}")
        else:
            _log.warning("%s: %s", self._stages[self._position], text)

    def say(self, text: str) -> None:
        """Something good to know while the stages run."""
        if self._screen:
            self._screen.note(f"{self._stages[self._position]}: {text}")
        else:
            _log.info("%s: %s", self._stages[self._position], text)

    def end_stage(self, facts: str) -> None:
        self._change(text=self._label("done"), facts=facts)

    def _label(self, text: str) -> str:
        return f"stage {self._position + 1} of {len(self._stages)}  {self._stages[self._position]}: {text}"

    def _change(self, **changes: Any) -> None:
        self._line = replace(self._line, **changes)
        if self._screen:
            self._screen.change(self._line)


def _screen() -> Screen:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        return _Notebook()
    return _Terminal(console) if console.is_terminal else _Lines()


class _Lines:
    """Plain lines for a file or a pipe: one for each phase of a stage and, while it trains, one in ten seconds."""

    def __init__(self) -> None:
        self._shown, self._at = Line(""), 0.0

    def add(self, line: Line) -> None:
        self.change(line)

    def change(self, line: Line) -> None:
        moved = line.done != self._shown.done or line.facts != self._shown.facts
        if line.text != self._shown.text or (moved and time.monotonic() - self._at >= _SECONDS_BETWEEN_LINES):
            self.note(f"{line.text}  {_count(line)}{line.facts}".rstrip())
            self._shown, self._at = line, time.monotonic()

    def note(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a reader that went or a full disk must not end the run
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Terminal:
    """rich's progress bars."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._progress.start()

    def add(self, line: Line) -> None:
        self._task = self._progress.add_task(line.text, total=line.total, facts=line.facts)

    def change(self, line: Line) -> None:
        self._progress.update(
            self._task, description=line.text, facts=line.facts, total=line.total, completed=line.done
        )

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class _Notebook:
    """Lines in one output cell, rewritten in place; rich would need ipywidgets, and warns at every step without."""

    def __init__(self) -> None:
        from IPython.display import display

        self._lines: list[Line] = []
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def add(self, line: Line) -> None:
        self._lines.append(line)
        self._show()

    def change(self, line: Line) -> None:
        self._lines[-1] = line
        self._show()

    def note(self, text: str) -> None:
        self._lines.insert(-1, Line(text))
        self._show()

    def close(self) -> None:
        pass

    def _show(self) -> None:
        text = "\n".join(f"{line.text}  {_count(line)}{line.facts}" for line in self._lines)
        self._handle.update({"text/plain": text}, raw=True)


def _count(line: Line) -> str:
    return f"{line.done}/{line.total}  " if line.total else ""
