"""The commands of `posttrain` as other processes: asked for an answer in JSON, or left to train on their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import CommandError

PROGRAM = (
    sys.executable,
    "-P",
    "-m",
    "posttrain",
)  # -P: no module of the folder that the page was started in
_MOST_BYTES = 32 << 20  # of an answer
_LONGEST_WORD = 64 << 10  # bytes; Linux takes twice as many


async def answer(words: Sequence[str], seconds: float, folder: Path | None = None) -> Any:
    """What `posttrain words` prints as JSON; the process is ended when nobody waits for it any more.

    Raises CommandError with the command's own sentence.
    """
    _check_words(words)
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        limit=_MOST_BYTES, start_new_session=True, env=environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds):
            said, errors = await process.communicate()
    except TimeoutError:
        raise CommandError(f"This took longer than {seconds:.0f} seconds and was ended.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
    try:
        return json.loads(said)
    except ValueError:
        raise CommandError(last_words(errors.decode("utf-8", "replace"), process.returncode)) from None


def _check_words(words: Sequence[str]) -> None:
    """Raises CommandError for what no process can be given."""
    for word in words:
        if "\0" in word or len(word.encode("utf-8", "surrogateescape")) > _LONGEST_WORD:
            raise CommandError(f"{word[:40]!r}... is too long, or holds a zero byte; give a shorter text.")


def environment() -> dict[str, str]:
    """In which PROGRAM finds this package, be it a checkout that is not installed."""
    home = Path(__file__).resolve().parents[2]
    if not (home / "pipeline").is_dir():  # it is installed
        return dict(os.environ)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
    }


def last_words(text: str, code: int | None) -> str:
    """The sentence that a command ended with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"It ended with exit code {code} and said nothing."


def detached(words: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """`posttrain words` in a session of its own: it goes on when this process ends. It prints into `output`."""
    _check_words(words)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        return subprocess.Popen(
            [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True, env=environment() | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
