"""A disk that is full, broken or read-only from some point on: a plain error, and the same bits once it is well again."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.chain import STAGES
from tests.faults.forked import Bench, Ended
from tests.faults.moments import nothing, replaced
from tests.faults.points import Way, points

SAMPLES = 4  # points of each stage and error
# What must stand in the last words of the run.
SAID: dict[Way, str] = {
    "ENOSPC": "DiskSpaceError: ", "EIO": "DiskError: .* [(]Input/output error[)]",
    "EROFS": "DiskError: .* [(]Read-only file system[)]",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", list(SAID))
@pytest.mark.parametrize("stage", STAGES)
def test_an_error_from_some_point_on(bench: Bench, stage: str, way: Way) -> None:
    # What is cleared away may stay where it is, and a folder may be there already: such errors stop nothing.
    kinds = ("fsync", "os.rename", "write")
    places = [at for at, what in enumerate(bench.points(stage), 1) if what in kinds]
    failed = 0
    for sample in range(SAMPLES):
        at = places[(2 * sample + 1) * len(places) // (2 * SAMPLES) + len(way) + STAGES.index(stage)]
        folder = bench.case(f"{stage} {way} {at}", stage)
        ended = bench.run(folder, stage, points(bench.journal, at, way))
        if ended.code:
            failed += 1
            assert ended.code == 1 and re.search(SAID[way], last_words(ended)), ended.log[-3000:]
            assert "run the same command again to go on" in last_words(ended)
        bench.ends_the_same(folder, stage)
        bench.drop(folder)
    assert failed >= SAMPLES // 2  # a report that cannot be written stops nothing either


def last_words(ended: Ended) -> str:
    return ended.log.rstrip().splitlines()[-1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine lets us mount no file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [16, 48, 96, 160, 240, 320, 400, 480, 560, 640])
def test_a_disk_of_this_size(bench: Bench, disk: Path, kilobytes: int) -> None:
    """Two stages on it; what it has no room for is made when there is."""
    resize = ["mount", "-o", f"remount,size={kilobytes}k", str(disk)]
    subprocess.run(resize, check=True)
    # The plan would refuse to start at all: that is tested beside this.
    unplanned = replaced("posttrain.pipeline.pipeline:check_disk", nothing)
    ended = bench.run(disk / "run", "sft", unplanned)
    assert ended.code == 1
    assert "DiskSpaceError: " in last_words(ended) and "free some space" in last_words(ended), ended.log[
        -3000:
    ]
    subprocess.run([*resize[:2], "remount,size=100m", str(disk)], check=True)
    bench.ends_the_same(disk / "run", "sft")
