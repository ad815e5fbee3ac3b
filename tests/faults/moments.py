"""Moments of a run: the n-th call of a function, just before it or just after, and what comes then."""

import functools
import importlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

Arm = Callable[[Path], None]  # called in the process that will train, with its run folder


def _owner(place: str) -> tuple[Any, str]:
    """(what holds it, its name) of a place such as "torch.optim:AdamW.step"."""
    module, _, names = place.partition(":")
    owner: Any = importlib.import_module(module)
    *owners, name = names.split(".")
    for one in owners:
        owner = getattr(owner, one)
    return owner, name


def _at_call(folder: Path, *, place: str, nth: int, sent: signal.Signals, after: bool) -> None:
    owner, name = _owner(place)
    real, calls = getattr(owner, name), 0

    @functools.wraps(real)
    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == nth
        if due and not after:
            os.kill(os.getpid(), sent)
        result = real(*given, **named)
        if due and after:
            os.kill(os.getpid(), sent)
        return result

    setattr(owner, name, counted)


def at_call(place: str, nth: int = 1, sent: signal.Signals = signal.SIGKILL, *, after: bool = False) -> Arm:
    """at_call("torch.optim:AdamW.step", 2): a kill at the second step. The place is where the name is looked up."""
    return partial(_at_call, place=place, nth=nth, sent=sent, after=after)


def _replaced(folder: Path, *, place: str, by: Any) -> None:
    owner, name = _owner(place)
    assert hasattr(owner, name), place
    setattr(owner, name, by)


def replaced(place: str, by: Any) -> Arm:
    """Something else in its place; `by` must be importable."""
    return partial(_replaced, place=place, by=by)


def nothing(*_: Any, **__: Any) -> None:
    """What a function does that is switched off."""


def _cache_at(folder: Path, *, cache: str) -> None:
    os.environ["POSTTRAIN_CACHE"] = cache


def cache_at(cache: Path) -> Arm:
    """Token tables elsewhere; in an empty folder none is found."""
    return partial(_cache_at, cache=str(cache))
