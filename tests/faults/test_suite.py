"""The suite itself: each protection, switched off, turns something red."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.damage import one_bit
from tests.faults.forked import Bench
from tests.faults.moments import Arm, at_call, nothing, replaced
from tests.faults.points import Way, points

STEP = "torch.optim:AdamW.step"


def written_in_place(
    source: Path, target: Path, facts: Any = None, name: str = "manifest.json"
) -> dict[str, Any]:
    """As `adopt_folder`, without the rename."""
    from posttrain.pipeline import durable

    target.mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
    shutil.rmtree(source)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": durable.sha256_of(path)}
        for path in target.iterdir()
    }
    durable.write_sealed(target / name, {"files": files, "facts": dict(facts or {})})
    return {}


def all_batches(loader: Any, count: int) -> Any:
    return loader


def kill_and_go_on(bench: Bench, name: str, killed: Sequence[Arm], again: Sequence[Arm] = ()) -> None:
    folder = bench.case(name, "sft")
    bench.run(folder, "sft", *killed).killed()
    bench.ends_the_same(folder, "sft", *again)


def at_some_point(bench: Bench, way: Way, *off: Arm) -> None:
    for at in range(20, len(bench.points("sft")) + 1, 16):
        arms = [*off, points(bench.journal, at, way)]
        kill_and_go_on(bench, f"{way} {at} {len(off)}", arms)


def without_fsync(bench: Bench, *off: Arm) -> None:
    at_some_point(bench, "power cut", *off)


def without_rename(bench: Bench, *off: Arm) -> None:
    at_some_point(bench, "kill", *off)


def without_manifest_check(bench: Bench, *off: Arm) -> None:
    folder, checkpoints = bench.after_three(f"one bit {len(off)}", "sft")
    one_bit(checkpoints / "step-3" / "optimizer.pt", folder)
    bench.ends_the_same(folder, "sft", *off, damaged=True)


def without_random_state(bench: Bench, *off: Arm) -> None:
    kill_and_go_on(bench, f"random {len(off)}", [*off, at_call(STEP, 3)])


def without_data_position(bench: Bench, *off: Arm) -> None:
    kill_and_go_on(bench, f"data {len(off)}", [at_call(STEP, 3)], off)


OFF = {
    without_fsync: replaced("posttrain.pipeline.durable:_sync_file", nothing),
    without_rename: replaced("posttrain.stages.checkpoints:adopt_folder", written_in_place),
    without_manifest_check: replaced("posttrain.stages.checkpoints:verify_folder", nothing),
    without_random_state: replaced("transformers:Trainer._save_rng_state", nothing),
    without_data_position: replaced("transformers.trainer:skip_first_batches", all_batches),
}


@pytest.mark.slow
@pytest.mark.parametrize("check", list(OFF))
def test_what_is_switched_off_turns_red(bench: Bench, check: Any) -> None:
    check(bench)  # green as it is
    with pytest.raises(AssertionError):
        check(bench, OFF[check])
