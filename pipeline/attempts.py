"""Each attempt at a stage, in `attempts.jsonl`: one line when it starts, one when it breaks off.

A stage that is finished has its sealed record; this is what is known of one before, and how often it was gone on with.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from .durable import named_disk_errors
from .remote_code import trusts_remote_code
from .secrets import looks_secret, redacted
from .stage import StagePlan

ATTEMPTS = "attempts.jsonl"
_PACKAGES = ("posttrain", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


def begin_attempt(
    folder: Path, type_: str, settings: Sequence[Mapping[str, Any]], plan: StagePlan | None, seed: int
) -> None:
    """Write down what is about to run, with which versions, on what, and by which command."""
    line = {
        "event": "started",
        "time": _now(),
        "type": type_,
        "settings": list(settings),
        "plan": None if plan is None else asdict(plan),
        "seed": seed,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "machine": _machine(),
        "command": command(),
        "remote_code": trusts_remote_code(),
    }
    path = folder / ATTEMPTS
    with named_disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def break_off(folder: Path, error: BaseException) -> None:
    """Write down why an attempt ended before its stage was finished."""
    line = {
        "event": "broken off",
        "time": _now(),
        "error": type(error).__name__,
        "text": redacted(str(error)),
    }
    path = folder / ATTEMPTS
    with suppress(OSError), path.open("a", encoding="utf-8") as file:  # the error itself comes first
        file.write(json.dumps(line) + "\n")


def command() -> str:
    """What was typed to start this process, without secrets; empty in a notebook or a shell of Python."""
    words = sys.argv
    if not words or words[0] in ("", "-c") or "ipykernel" in words[0]:
        return ""
    program = Path(words[0]).name
    if program == "__main__.py":
        start = ["python", "-m", Path(words[0]).parent.name]
    else:
        start = ["python", words[0]] if program.endswith(".py") else [program]
    return shlex.join([*start, *(_shown(before, word) for before, word in pairwise(words))])


def _shown(before: str, word: str) -> str:
    """A word of a command, after the one before it."""
    name, equals, value = word.partition("=") if word.startswith("-") else (before, "", word)
    if looks_secret(name, value):
        return f"{name}=***" if equals else "***"
    return redacted(word)


def _machine() -> str:
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{gpu or platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "uninstalled"
