"""SIGKILL at random moments of whole chains: run again, and the result is the same to the bit."""

import os
import random
import time

import pytest

from tests.faults.forked import KILLED, Bench

SEED = 20
KILLS = int(os.environ.get("POSTTRAIN_KILLS", "30"))  # nightly: 200
PARTS = 6  # tests that share them


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_killed_chain_ends_bit_identical(bench: Bench, part: int) -> None:
    """With dropout and a checkpoint at every step; odd ones end with DPO, even ones with PPO."""
    last = ("ppo", "dpo")[part % 2]
    begun = time.monotonic()
    whole = bench.root / f"case whole {part}"
    bench.ends_the_same(whole, last)
    duration, hits = time.monotonic() - begun, 0
    draw = random.Random(SEED + part)
    for case in range(-(-KILLS // PARTS)):
        folder = bench.root / f"case {part} {case}"
        moment = draw.uniform(0.05, 0.95) * duration
        process = bench.start(folder, last)
        process.join(timeout=moment)
        reached = any(folder.glob("stages/*/checkpoints"))
        process.kill()
        process.join()
        assert process.exitcode in (KILLED, 0)  # it may have been at its end already
        hits += reached and process.exitcode == KILLED
        bench.ends_the_same(folder, last)
        bench.drop(folder)
    assert hits  # the others hit loading, measuring, saving, or the time between stages
