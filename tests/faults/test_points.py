"""Killed at every persistence point of every stage, and where the power goes too: run again, the same to the bit."""

import os

import pytest

from tests.faults.chain import STAGES
from tests.faults.forked import Bench
from tests.faults.moments import cache_at
from tests.faults.points import Way, points

# The stages of TRL's trainers pass the same points, about 290: each takes every fourth of them, beginning at another, and
# together they take all. PPO and the token tables, which pass others, take every second of theirs. Nightly
# (POSTTRAIN_POINTS=all), each takes all.
EVERY: dict[str, int] = dict.fromkeys(STAGES, 4) | {"ppo": 2}
if os.environ.get("POSTTRAIN_POINTS") == "all":
    EVERY = dict.fromkeys(STAGES, 1)
PARTS = 3  # tests that share a stage's points


def killed_at(bench: Bench, stage: str, at: int, way: Way) -> None:
    folder = bench.case(f"{stage} {at} {way}", stage)
    bench.run(folder, stage, points(bench.journal, at, way)).killed()
    bench.ends_the_same(folder, stage)
    bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_point(bench: Bench, stage: str, part: int) -> None:
    count = len(bench.points(stage))
    assert count > 60
    places = range(1 + STAGES.index(stage) % EVERY[stage], count + 1, EVERY[stage])
    for at in places[part::PARTS]:
        killed_at(bench, stage, at, "kill")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_power_goes_at_a_point(bench: Bench, stage: str) -> None:
    """What no fsync has reached is lost with it."""
    for at in range(3 + STAGES.index(stage), len(bench.points(stage)) + 1, 14):
        killed_at(bench, stage, at, "power cut")


@pytest.mark.slow
def test_killed_while_the_token_tables_are_made(bench: Bench) -> None:
    """They stand outside the run folder and are shared by all runs of a user."""

    def one(at: int, way: Way) -> int:
        name = f"tables {at}"
        folder, cache, journal = bench.case(name, "cpt"), bench.root / f"cache {at}", bench.journal
        ended = bench.run(folder, "cpt", cache_at(cache), points(journal, at, way, (cache,)))
        ended.killed() if at else ended.finished()
        lines = journal.read_text().splitlines()
        bench.ends_the_same(folder, "cpt", cache_at(cache))
        assert not [
            path
            for path in (cache / "tables").rglob("*")
            if ".corrupt-" in path.name or path.suffix == ".tmp"
        ]
        bench.drop(folder)
        return max((number for number, line in enumerate(lines, 1) if str(cache) in line), default=0)

    last = one(0, "count")
    assert last > 10
    for at in range(1, last + 1, EVERY["ppo"]):
        one(at, "kill")
