"""Two ranks (gloo): one is killed, raises, or stands still; both end within seconds, and a new launch gives the same."""

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.chain import STEPS, Chain, fingerprints, train
from tests.faults.forked import KILLED, PATIENCE, Bench, forked
from tests.faults.moments import Arm, at_call, replaced

STEP = "torch.optim:AdamW.step"


def had_enough(*_: Any) -> None:
    raise ValueError("this rank has had enough")


def train_rank(chain: Chain, folder: Path, log: Path, rank: int, port: int, arms: Sequence[Arm]) -> None:
    """What a launcher sets, in a process that was alone so far."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "POSTTRAIN_WATCHDOG": "5", **sizes})
    train(chain, "cpt", folder, log, arms)


def launch(bench: Bench, folder: Path, arms: dict[int, Sequence[Arm]]) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [bench.root / f"{folder.name} {rank}.log" for rank in (0, 1)]
    return [
        forked(train_rank, bench.chain, folder, logs[rank], rank, port, arms.get(rank, ())) for rank in (0, 1)
    ]


def codes(bench: Bench, folder: Path, arms: dict[int, Sequence[Arm]]) -> tuple[list[int], str]:
    """(exit codes, what both said); no rank may be there half a minute after the other has ended."""
    processes = launch(bench, folder, arms)
    begun, ended = time.monotonic(), None
    while any(process.is_alive() for process in processes):
        if ended is None and not all(process.is_alive() for process in processes):
            ended = time.monotonic()
        stuck = time.monotonic() - (ended or begun + PATIENCE) > 30
        if stuck:
            for process in processes:
                process.kill()
        assert not stuck
        time.sleep(0.02)
    said = "".join((bench.root / f"{folder.name} {rank}.log").read_text() for rank in (0, 1))
    return [process.exitcode for process in processes], said


@pytest.fixture(scope="module")
def of_two(bench: Bench) -> dict[str, str]:
    """What two ranks make together: eight rows a step, where one rank takes four."""
    folder = bench.root / "two whole"
    ended, said = codes(bench, folder, {})
    assert ended == [0, 0], said
    found = fingerprints(folder)
    assert found["cpt"] != bench.expected["cpt"]["cpt"]
    return found


def goes_on(bench: Bench, folder: Path, expected: dict[str, str]) -> None:
    ended, said = codes(bench, folder, {})
    assert ended == [0, 0], said
    assert fingerprints(folder) == expected
    bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(bench: Bench, of_two: dict[str, str], rank: int, step: int) -> None:
    folder = bench.root / f"two killed {rank} {step}"
    ended, said = codes(bench, folder, {rank: [at_call(STEP, step, after=True)]})
    assert ended[rank] == KILLED and ended[1 - rank] == 1, said
    goes_on(bench, folder, of_two)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_stands_still(bench: Bench, of_two: dict[str, str], rank: int) -> None:
    folder = bench.root / f"two stopped {rank}"
    ended, said = codes(bench, folder, {rank: [at_call(STEP, 3, signal.SIGSTOP)]})
    assert ended[1 - rank] == 1 and ended[rank] == KILLED
    assert f"Rank {rank} has given no sign of life for 5 s, so rank {1 - rank} ends" in said
    assert "Run the same command again to go on." in said
    goes_on(bench, folder, of_two)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_raises(bench: Bench, of_two: dict[str, str], rank: int) -> None:
    folder = bench.root / f"two raised {rank}"
    ended, said = codes(
        bench, folder, {rank: [replaced("posttrain.stages.callbacks:Metrics.logged", had_enough)]}
    )
    assert ended == [1, 1] and "ValueError: this rank has had enough" in said
    goes_on(bench, folder, of_two)
