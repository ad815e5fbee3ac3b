"""A few cases for every run of the tests (a full disk: test_disk_full.py); the whole suite is slow and runs in CI."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.chain import Chain
from tests.faults.damage import one_bit
from tests.faults.forked import Bench
from tests.faults.moments import at_call
from tests.faults.points import Way, points

STEP = "torch.optim:AdamW.step"
COMMIT = "posttrain.stages.callbacks:commit_checkpoint"


# One test, so that one of the parallel workers pays for the processes' start.
def test_one_fault_of_each_kind(tmp_path_factory: pytest.TempPathFactory, words_model: Path) -> None:
    root = tmp_path_factory.mktemp("sample")
    bench = Bench.make(root / "runs", Chain(words_model, root / "cache"), ("cpt", "sft"))
    at_a_point(bench, 120, "kill")
    at_a_point(bench, 200, "power cut")

    folder = bench.case("step", "sft")
    bench.run(folder, "sft", at_call(STEP, 3)).killed()
    saved = root / "saved"
    shutil.copytree(folder, saved)
    bench.ends_the_same(folder, "sft", at_call(STEP, 3))  # from step 2 there are two to go

    folder = root / "damaged"
    shutil.copytree(saved, folder)
    (newest,) = folder.glob("stages/sft-*/checkpoints/step-2/optimizer.pt")
    one_bit(newest, folder)
    bench.ends_the_same(folder, "sft", at_call(STEP, 4), damaged=True)

    for manifest in saved.glob("stages/sft-*/checkpoints/*/manifest.json"):
        manifest.unlink()
    ended = bench.run(saved, "sft", at_call(STEP, 1))
    assert ended.code == 1 and "NoValidCheckpointError: All checkpoints in " in ended.log

    folder = bench.case("signal", "sft")
    ended = bench.run(folder, "sft", at_call(STEP, 2, signal.SIGTERM))
    assert ended.code == 75 and "Run the same command again to go on" in ended.log
    bench.ends_the_same(folder, "sft")

    folder = bench.case("tampered", "sft")
    (weights,) = folder.glob("stages/cpt-*/adapter/adapter_model.safetensors")
    one_bit(weights, folder)
    ended = bench.run(folder, "sft", at_call(STEP, 1))
    assert ended.code == 1 and "CorruptArtifactError: Stage cpt is finished, but " in ended.log


def at_a_point(bench: Bench, at: int, way: Way) -> None:
    folder = bench.case(f"{way} {at}", "sft")
    bench.run(folder, "sft", points(bench.journal, at, way)).killed()
    bench.ends_the_same(folder, "sft")
