"""A disk that really is full: a small file system of its own, where the machine lets us mount one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, SFT, Full, LoRA, Pipeline
from posttrain.errors import DiskSpaceError

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(60): a folder on a file system of 60 MB; called again, the same one with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def size(megabytes: int) -> Path:
        options = f"size={megabytes}m" + (",remount" if mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("this machine lets us mount no file system")
        mounted.append(megabytes)
        return folder

    yield size
    if mounted:
        subprocess.run(["umount", folder], check=True)


def stages(rows: Rows) -> list[Any]:
    common: dict[str, Any] = {"max_steps": 3, "batch_size": 4}
    return [SFT(LoRA(r=2), data=rows["chat"], **common), CPT(Full(), data=rows["text"], **common)]


def test_too_small_a_disk_is_predicted(rows: Rows, small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(60) / "run"
    with pytest.raises(DiskSpaceError, match="Nothing was started"):
        Pipeline(stages(rows), model="tiny-random", run_dir=folder).run()
    assert not (folder / "stages").exists()


@pytest.mark.parametrize(
    "megabytes", [20, 35, *(pytest.param(size, marks=pytest.mark.slow) for size in (60, 90))]
)
def test_a_disk_that_fills_up_keeps_what_was_finished(
    rows: Rows, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    """Full while the weights, the optimizer, or the second checkpoint of CPT is written; then there is room again."""
    monkeypatch.setattr("posttrain.pipeline.pipeline.check_disk", lambda *_: None)
    folder = small_disk(megabytes) / "run"
    pipeline = Pipeline(stages(rows), model="tiny-random", run_dir=folder)
    with pytest.raises(DiskSpaceError, match="free some space and run the same command again"):
        pipeline.run()
    kept = Pipeline.load(folder)
    assert list(kept.stages) == ["sft"]
    kept.model.load()
    small_disk(600)
    run = pipeline.run()
    assert run["cpt"].metrics["steps"] == 3
    assert run["sft"] == kept["sft"]
