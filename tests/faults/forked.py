"""Processes forked from one that has everything loaded, so that a case costs a second, and the folders they work in."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.chain import STAGES, Chain, fingerprints, train
from tests.faults.moments import Arm, at_call
from tests.faults.points import points

PATIENCE = 120.0  # seconds; a case takes one to ten
KILLED = -signal.SIGKILL
SAVING = {
    "sft": "posttrain.stages.callbacks:commit_checkpoint",
    "ppo": "posttrain.stages.ppo.state:commit_checkpoint",
}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    log: str

    def finished(self) -> None:
        assert self.code == 0, self.log[-4000:]

    def killed(self) -> None:
        assert self.code == KILLED, f"exit code {self.code}\n{self.log[-4000:]}"


def forked(function: Callable[..., Any], *arguments: Any) -> Any:
    """A started process of the fork server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preload"])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


@dataclass(frozen=True)
class Bench:
    """Run folders in which one stage after the other is finished, and what each stage must come out as."""

    root: Path
    chain: Chain
    expected: dict[str, dict[str, str]] = field(default_factory=dict)  # by the last stage
    started: dict[str, Path] = field(default_factory=dict)  # by stage: a folder with those before it finished
    counted: dict[str, list[str]] = field(default_factory=dict)  # by stage: persistence points

    @classmethod
    def make(cls, root: Path, chain: Chain, stages: Sequence[str] = STAGES) -> "Bench":
        bench, before = cls(root, chain), root / "nothing"
        before.mkdir(parents=True)
        for stage in stages:
            if stage == "ppo":
                before = root / "whole reward_model"
            bench.started[stage] = before
            folder = root / f"whole {stage}"
            shutil.copytree(before, folder)
            bench.run(folder, stage).finished()
            bench.expected[stage] = fingerprints(folder)
            before = folder
        return bench

    def case(self, name: str, stage: str) -> Path:
        """A run folder whose next stage is this one."""
        folder = self.root / f"case {name}"
        shutil.copytree(self.started[stage], folder)
        return folder

    def after_three(self, name: str, stage: str) -> tuple[Path, Path]:
        """(run folder, its checkpoints) of a run that was killed with the checkpoints of steps 2 and 3 on the disk."""
        model = self.root / f"killed {stage}"
        if not model.is_dir():
            shutil.copytree(self.started[stage], model)
            self.run(model, stage, at_call(SAVING[stage], 3, after=True)).killed()
        folder = self.root / f"case {name}"
        shutil.copytree(model, folder)
        (checkpoints,) = folder.glob(f"stages/{stage}-*/checkpoints")
        assert sorted(path.name for path in checkpoints.iterdir()) == ["step-2", "step-3"]
        return folder, checkpoints

    def points(self, stage: str) -> Sequence[str]:
        """What a run of the stage does at its persistence points, such as "fsync"."""
        if stage not in self.counted:
            folder = self.case(f"count {stage}", stage)
            self.run(folder, stage, points(self.journal)).finished()
            self.is_the_same(folder, stage)  # the counting changes nothing
            self.counted[stage] = [line.split()[1] for line in self.journal.read_text().splitlines()]
            self.drop(folder)
        return self.counted[stage]

    @property
    def journal(self) -> Path:
        """Of the points that the latest process passed."""
        return self.root / "journal"

    def start(self, folder: Path, last: str, *arms: Arm) -> Any:
        return forked(train, self.chain, last, folder, self.log(folder), arms)

    def run(self, folder: Path, last: str, *arms: Arm) -> Ended:
        """Run the chain to the end of a stage, or to wherever an armed fault ends it."""
        self.log(folder).unlink(missing_ok=True)
        process = self.start(folder, last, *arms)
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError(
                f"still there after {PATIENCE:.0f} s: {self.log(folder).read_text()[-4000:]}"
            )
        return Ended(process.exitcode, self.log(folder).read_text())

    def log(self, folder: Path) -> Path:
        return self.root / f"{folder.name}.log"

    def ends_the_same(self, folder: Path, last: str, *arms: Arm, damaged: bool = False) -> Ended:
        """Run again: the result is the one of the whole run, and nothing is left about.

        damaged: whether a checkpoint must be found so; after a mere kill none is.
        """
        ended = self.run(folder, last, *arms)
        ended.finished()
        assert ("It is kept as step-" in ended.log) is damaged, ended.log[-4000:]
        self.is_the_same(folder, last)
        return ended

    def is_the_same(self, folder: Path, last: str) -> None:
        found, expected = fingerprints(folder), self.expected[last]
        different = [name for name, value in expected.items() if found.get(name) != value]
        assert found.keys() == expected.keys() and not different, f"{folder.name}: {different}"
        left = [path for path in folder.rglob("*") if _left_over(path)]
        assert not left, f"{folder.name} keeps {left}"

    def drop(self, folder: Path) -> None:
        """A case that came out well leaves nothing on the disk."""
        shutil.rmtree(folder)
        self.log(folder).unlink(missing_ok=True)


def _left_over(path: Path) -> bool:
    return path.name in ("checkpoints", "scratch") or path.suffix == ".tmp" or ".corrupt-" in path.name
