"""A checkpoint in which somebody planted a pickle: put aside, or, where its manifest was made to fit, refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline
from posttrain.errors import CorruptArtifactError, PosttrainError
from posttrain.pipeline.durable import MANIFEST, adopt_folder
from posttrain.pipeline.events import StageEvents
from tests.security.planted import as_pickle, as_torch_zip

Rows = dict[str, list[dict[str, Any]]]
Write = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> Path:
    """The folder of a run that ended behind the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    real = StageEvents.step

    def fails(self: Any, step: int, metrics: Any) -> None:
        if step == 3:
            raise ConnectionError("the disk is gone")
        real(self, step, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageEvents, "step", fails)
        with pytest.raises(ConnectionError):
            pipeline(folder, rows).run()
    return folder


def pipeline(folder: Path, rows: Rows) -> Pipeline:
    stage = SFT(LoRA(r=2), data=rows["chat"][:16], max_steps=3, batch_size=2, trainer_args={"save_steps": 1})
    return Pipeline([stage], model="tiny-random", run_dir=folder)


@pytest.fixture
def copied(broken_off: Path, tmp_path: Path) -> Path:
    """A copy, as the next attempt changes it. The stage's key does not depend on where the folder is."""
    return Path(shutil.copytree(broken_off, tmp_path / "run"))


def newest(folder: Path) -> Path:
    return next(folder.glob("stages/*/checkpoints/step-2"))


def commit_again(checkpoint: Path) -> None:
    """As somebody would who knows the format: the manifest fits what was planted."""
    (checkpoint / MANIFEST).unlink()
    moved = checkpoint.rename(checkpoint.with_name("moved"))
    adopt_folder(moved, checkpoint, {"step": 2})


def test_a_planted_file_is_noticed_and_the_checkpoint_before_it_used(
    copied: Path, marker: Path, rows: Rows
) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        assert (newest(copied) / name).is_file(), "the Trainer writes it no more"
        as_torch_zip(newest(copied) / name, marker)
    run = pipeline(copied, rows).run()
    assert run["sft"].metrics["steps"] == 3
    assert list(copied.glob("stages/*/checkpoints/*corrupt*")) == []  # of a finished stage none is kept


PLANTED = [
    pytest.param(name, write, read, marks=[] if name == "optimizer.pt" and write is as_torch_zip else pytest.mark.slow)
    for name, read in (("optimizer.pt", True), ("scheduler.pt", True), ("rng_state.pth", True), ("training_args.bin", False))
    for write in (as_torch_zip, as_pickle)
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "read"), PLANTED)
def test_a_checkpoint_that_was_made_to_fit_runs_nothing(
    copied: Path, marker: Path, rows: Rows, name: str, write: Write, read: bool
) -> None:
    """read: by the Trainer, which then must refuse; the others nobody opens."""
    write(newest(copied) / name, marker)
    commit_again(newest(copied))
    if read:
        with pytest.raises(
            CorruptArtifactError, match=r"holds more than numbers, .* delete it to go on"
        ) as caught:
            pipeline(copied, rows).run()
        assert "\n" not in str(caught.value)
    else:
        assert pipeline(copied, rows).run()["sft"].metrics["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin"])
def test_a_checkpoint_whose_weights_are_pickles_runs_nothing(
    copied: Path, marker: Path, rows: Rows, name: str
) -> None:
    weights = newest(copied) / "adapter_model.safetensors"
    assert weights.is_file()
    weights.unlink()
    as_torch_zip(newest(copied) / name, marker)
    commit_again(newest(copied))
    with pytest.raises(PosttrainError) as caught:
        pipeline(copied, rows).run()
    assert "\n" not in str(caught.value)
