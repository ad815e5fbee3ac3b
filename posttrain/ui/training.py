"""Starting, stopping and going on with runs: each is a process of its own that does not need the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.errors import RecipeError, RunFolderError
from posttrain.pipeline.durable import write_bytes
from posttrain.pipeline.lock import is_locked, worker
from posttrain.pipeline.run import OUTPUT_FILE
from posttrain.pipeline.run_list import is_run

from .commands import detached, last_words

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAIL = 64 << 10  # bytes of the output that are shown


@dataclass
class Training:
    """The runs that were started below `root` by this process, beside all that stand there."""

    root: Path
    _started: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    _begun: set[Path] = field(default_factory=set)  # those that were seen at work since
    _asked: dict[Path, int] = field(default_factory=dict)  # the processes that were asked to end

    def folder(self, name: str) -> Path:
        """Where a new run of this name would stand. Raises RecipeError for a name that is none or is taken."""
        if not _NAME.fullmatch(name):
            raise RecipeError(
                f"{name!r} cannot be the name of a run: letters, digits, dots, dashes and underscores, at most 64, the first "
                "one a letter or a digit."
            )
        folder = self.root / name
        if folder.exists() and (is_run(folder) or {p.name for p in folder.iterdir()} - {OUTPUT_FILE}):
            raise RecipeError(f"There is a {name} in {self.root} already; give the run another name.")
        if self.is_starting(folder):
            raise RecipeError(f"{name} is being started.")
        return folder

    def start_yaml(self, name: str, text: str) -> Path:
        """Run a recipe's text, which is kept beside the run folder; returns the folder."""
        folder = self.folder(name)
        recipe = self.root / f"{name}.yaml"
        write_bytes(recipe, text.encode())
        self._begin(folder, yaml_words(recipe, folder))
        return folder

    def start_script(self, name: str, script: Path, flags: Sequence[str]) -> Path:
        folder = self.folder(name)
        self._begin(folder, ["run", str(script), *flags, f"--run-dir={folder}"])
        return folder

    def resume(self, folder: Path) -> None:
        """Start a run again as it was started; what cannot be is said in the run's output.

        Raises RunFolderError for a run that is at work.
        """
        if is_locked(folder) or self.is_starting(folder):
            raise RunFolderError(f"{folder.name} is at work already.")
        self._begin(folder, ["resume", str(folder)])

    def stop(self, folder: Path) -> None:
        """Ask it to save and end (SIGTERM, exit code 75). Raises RunFolderError for a run that is not at work."""
        if (pid := self._at_work(folder)) is None:
            raise RunFolderError(f"{folder.name} is not at work.")
        os.kill(pid, signal.SIGTERM)
        self._asked[folder] = pid

    def is_stopping(self, folder: Path) -> bool:
        """Whether it was asked from here to end, and has not yet."""
        asked = self._asked.get(folder)
        return asked is not None and asked == self._at_work(folder)

    def _at_work(self, folder: Path) -> int | None:
        """The process that trains there or is about to; None where there is none."""
        if (pid := worker(folder)) is not None:
            return pid
        return self._started[folder].pid if self.is_starting(folder) else None

    def is_starting(self, folder: Path) -> bool:
        """Whether it was started here, goes on, and does not hold its folder yet."""
        process = self._started.get(folder)
        if process is None or process.poll() is not None or folder in self._begun:
            return False
        if is_locked(folder):
            self._begun.add(folder)
        return folder not in self._begun

    def failed_start(self, folder: Path) -> str:
        """Why a run that was started here ended before it said so in its folder; "" where it did not."""
        process = self._started.get(folder)
        if process is None or process.poll() in (None, 0, 75):
            return ""
        return last_words(self.output(folder), process.returncode)

    @property
    def unborn(self) -> list[Path]:
        """Folders of runs that were started here and are none yet, or never became one."""
        return [folder for folder in self._started if not is_run(folder)]

    def output(self, folder: Path) -> str:
        """The last of what the run printed."""
        try:
            with (folder / OUTPUT_FILE).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _begin(self, folder: Path, words: Sequence[str]) -> None:
        self._begun.discard(folder)
        self._started[folder] = detached(words, folder / OUTPUT_FILE)


def yaml_words(recipe: Path, folder: Path, command: str = "run") -> list[str]:
    return [command, str(recipe), "--set", f"run_dir={json.dumps(str(folder))}"]
