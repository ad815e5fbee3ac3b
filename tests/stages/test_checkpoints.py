"""A stage goes on from its newest whole checkpoint, and only from a whole one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline, Run
from posttrain.errors import ArtifactMismatchError, DiskSpaceError, NoValidCheckpointError, RunInterrupted
from posttrain.pipeline import Ranks
from posttrain.pipeline.digests import sha256_of
from posttrain.pipeline.interrupt import StopRequest
from posttrain.stages.callbacks import Metrics, SaveEarly
from posttrain.stages.checkpoints import commit_checkpoint, newest_whole_checkpoint

Rows = dict[str, list[dict[str, Any]]]


def commit(folder: Path, step: int) -> Path:
    scratch = folder / "scratch" / f"checkpoint-{step}"
    scratch.mkdir(parents=True)
    (scratch / "weights").write_text(f"weights of step {step}")
    return commit_checkpoint(scratch, folder / "checkpoints", step)


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path / "checkpoints") is None
    for step in (2, 4, 10):
        commit(tmp_path, step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-4"]
    assert newest_whole_checkpoint(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-10", 10)


def test_a_damaged_one_is_put_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    for step in (4, 10):
        commit(tmp_path, step)
    (tmp_path / "checkpoints" / "step-10" / "weights").write_text("weights of step 11")
    assert newest_whole_checkpoint(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-4", 4)
    assert list((tmp_path / "checkpoints").glob("step-10.corrupt-*"))
    assert newest_whole_checkpoint(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-4", 4)


def test_without_a_whole_one_nothing_starts_from_scratch(tmp_path: Path) -> None:
    commit(tmp_path, 4)
    (tmp_path / "checkpoints" / "step-4" / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(NoValidCheckpointError, match="Delete that folder to train the stage again"):
            newest_whole_checkpoint(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({}, "no tensor in adapter_model.safetensors"),
        ({"a": [2, 2], "b": [0]}, "no values for b in adapter_model.safetensors"),
    ],
)
def test_names_without_weights_are_no_checkpoint(
    tmp_path: Path, shapes: dict[str, list[int]], found: str
) -> None:
    """As parts of a model are saved that nobody puts together: a file of 40 bytes."""
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    written, checkpoints = tmp_path / "checkpoint-1", tmp_path / "checkpoints"
    written.mkdir()
    save_file(tensors, written / "adapter_model.safetensors")
    with pytest.raises(ArtifactMismatchError, match=f"of step 1 has {found}"):
        commit_checkpoint(written, checkpoints, 1)
    assert not checkpoints.exists()
    save_file(tensors | {"a": torch.ones(2), "b": torch.tensor(1.0)}, written / "adapter_model.safetensors")
    assert commit_checkpoint(written, checkpoints, 1).is_dir()


@pytest.mark.parametrize(("size", "border", "expected"), [(1, 1, []), (2, 1, [1]), (2, 3, [3])])
def test_several_processes_save_the_first_state_that_can_be_gone_on_from(
    size: int, border: int, expected: list[int]
) -> None:
    from transformers import TrainerControl, TrainerState

    early = SaveEarly(Ranks(0, size), border)
    saved = [
        step
        for step in range(1, 7)
        if early.on_step_end(None, TrainerState(global_step=step), TrainerControl()).should_save
    ]
    assert saved == expected


_TRAIN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.conftest import make_rows
from posttrain import SFT, LoRA, Pipeline
stage = SFT(LoRA(r=4, dropout=0.1), data=make_rows(40)["chat"], max_steps=30, batch_size=4, learning_rate=1e-3,
            trainer_args={"save_steps": 5})
Pipeline([stage], model="tiny-random", run_dir=sys.argv[2]).run()
"""


def train(
    folder: Path, *, stop: signal.Signals | None = None, after_step: int = 0
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own; with `stop`, send it the signal once `after_step` steps are logged."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _TRAIN, str(root), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while stop is not None and process.poll() is None:
        if any(
            len(path.read_text().splitlines()) >= after_step for path in folder.glob("stages/*/metrics.jsonl")
        ):
            os.kill(process.pid, stop)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=600)
    return subprocess.CompletedProcess(command, process.returncode, stderr=errors)


def weights(folder: Path) -> str:
    return sha256_of(Run.load(folder)["sft"].folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder).returncode == 0
    return weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_exits_75(tmp_path: Path, expected: str, stop: signal.Signals) -> None:
    done = train(tmp_path / "run", stop=stop, after_step=7)
    assert done.returncode == 75, done.stderr
    assert "Run the same command again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    stage = next((tmp_path / "run" / "stages").iterdir())
    step = len((stage / "metrics.jsonl").read_text().splitlines())
    assert 7 <= step < 30
    assert newest_whole_checkpoint(stage / "checkpoints") == (stage / "checkpoints" / f"step-{step}", step)
    assert train(tmp_path / "run").returncode == 0
    assert weights(tmp_path / "run") == expected
    lines = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 31))  # each step once


@pytest.mark.parametrize("steps", [3, 6])  # inside the first epoch of five, and of the second
def test_a_run_stopped_at_its_last_step_trains_no_step_more(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """With a constant rate; a schedule that ends at 0 would hide a step too many."""

    def stage() -> SFT:
        return SFT(LoRA(r=2), data=rows["chat"][:28], eval_data=rows["chat"][:4], max_steps=steps, batch_size=6,
                   learning_rate=1e-3, trainer_args={"lr_scheduler_type": "constant"})  # fmt: skip

    whole = tiny([stage()], "whole").run()["sft"]
    logged: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(Metrics, "logged", lambda self, step: logged.append(step))
        patched.setattr(StopRequest, "agreed", lambda self: "SIGTERM" if steps in logged else None)
        with pytest.raises(RunInterrupted, match=f"in stage sft after step {steps};"):
            tiny([stage()], "stopped").run()
    found = tiny([stage()], "stopped").run()["sft"]
    assert found.metrics["steps"] == steps == len(found.history)
    adapters = [sha256_of(one.folder / "adapter" / "adapter_model.safetensors") for one in (whole, found)]
    assert adapters[0] == adapters[1]
    assert found.metrics["train_loss"] == whole.metrics["train_loss"]


@pytest.mark.slow
def test_a_torn_checkpoint_is_noticed_and_the_one_before_gives_the_same_model(
    tmp_path: Path, expected: str
) -> None:
    done = train(tmp_path / "run", stop=signal.SIGKILL, after_step=17)
    assert done.returncode == -signal.SIGKILL
    checkpoints = next((tmp_path / "run" / "stages").iterdir()) / "checkpoints"
    newest = newest_whole_checkpoint(checkpoints)
    assert newest is not None and newest[1] >= 15
    optimizer = newest[0] / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1  # plain transformers loads this without a word
    optimizer.write_bytes(bytes(content))
    assert train(tmp_path / "run").returncode == 0
    assert weights(tmp_path / "run") == expected


def test_a_disk_that_fills_up_keeps_and_names_the_last_good_state(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from posttrain.stages import callbacks

    real, calls = callbacks.commit_checkpoint, []

    def full_at_the_second(*args: Any) -> Path:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(callbacks, "commit_checkpoint", full_at_the_second)
    stage = SFT(LoRA(r=2), data=rows["chat"], max_steps=4, batch_size=4, trainer_args={"save_steps": 1})
    with pytest.raises(DiskSpaceError, match=r"The last good state is .*step-1; free some space"):
        tiny([stage]).run()
    run = tiny([stage]).run()  # the disk has room again
    assert run["sft"].metrics["steps"] == 4
