"""The latest launch of a run: how it was started, and how it ended. Kept in the run folder for `runs` and `resume`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from posttrain.errors import CorruptArtifactError, PosttrainError, RunInterrupted

from .durable import read_json, write_json
from .ranks import Ranks
from .secrets import holds_secret, redacted

LAUNCH_FILE = "launch.json"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Started:
    """How a run was started, so that it can be started again."""

    folder: str  # the working directory
    words: tuple[str, ...] = ()  # what follows `python`: a script or -m module, and its arguments
    recipe: str = ""  # the text of a recipe file, which then counts instead of words
    recipe_name: str = ""
    changes: tuple[str, ...] = ()  # of --set
    processes: int = 1
    why_not: str = ""  # why it cannot be started again

    @classmethod
    def by_recipe(cls, text: str, name: str, changes: Sequence[str]) -> Started:
        started = cls(str(Path.cwd()), recipe_name=name, processes=_processes())
        if redacted(text) != text or any(redacted(change) != change for change in changes):
            return replace(
                started,
                why_not="its recipe holds what looks like a secret, so it was not kept (in a comment, perhaps)",
            )
        return replace(started, recipe=text, changes=tuple(changes))

    @classmethod
    def by_this_process(cls) -> Started:
        """From the script or module that Python runs."""
        from multiprocessing import parent_process

        started = cls(str(Path.cwd()), processes=_processes())
        main = sys.modules.get("__main__")
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if parent_process() is not None:
            return replace(started, why_not="it was started inside another Python program")
        if not spec and not file:
            return replace(started, why_not="it was started from a notebook or a prompt, not from a file")
        words = ["-m", spec.name.removesuffix(".__main__")] if spec else [str(Path(str(file)).resolve())]
        for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False):
            name, _, value = word.partition("=") if word.startswith("-") else (before, "", word)
            if holds_secret(name, value):
                return replace(
                    started, why_not="its command line holds what looks like a secret, so it was not kept"
                )
        return replace(started, words=(*words, *sys.argv[1:]))


def _processes() -> int:
    return Ranks.of_environment().size


@dataclass(frozen=True)
class Launch:
    """What `launch.json` holds. Times are seconds since 1970."""

    stages: tuple[str, ...]
    started: Started
    begun: float
    status: Status = "running"
    ended: float | None = None
    error: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> Launch | None:
        """None for a folder without one. Raises CorruptArtifactError for a file that is none."""
        path = run_dir / LAUNCH_FILE
        if not path.is_file():
            return None
        try:
            value = read_json(path)
            started = value["started"]
            for name in ("words", "changes"):
                started[name] = tuple(started[name])
            return cls(**{**value, "stages": tuple(value["stages"]), "started": Started(**started)})
        except (KeyError, TypeError) as error:
            raise CorruptArtifactError(f"{path} is not what this version writes ({error}).") from error

    def write(self, run_dir: Path) -> None:
        write_json(run_dir / LAUNCH_FILE, asdict(self))


@contextmanager
def launched(run_dir: Path, stages: Sequence[str], started: Started) -> Iterator[None]:
    """Keep how the run was started, and when it ends how. A process that is killed leaves "running" behind."""
    now = Launch(tuple(stages), started, time.time())
    now.write(run_dir)
    status: Status = "finished"
    error = ""
    try:
        yield
    except BaseException as raised:
        stopped = isinstance(raised, (RunInterrupted, KeyboardInterrupt))
        status, error = ("stopped" if stopped else "failed"), _sentence(raised)
        raise
    finally:
        try:
            replace(now, status=status, ended=time.time(), error=error).write(run_dir)
        except OSError:
            if not error:  # a full disk ended the run; its own error says so
                raise


def _sentence(error: BaseException) -> str:
    """What is shown of an error; texts of other libraries may hold anything, so they are cut."""
    text = str(error) if isinstance(error, PosttrainError) else (str(error).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {redacted(text)}"
