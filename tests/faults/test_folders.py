"""What happens around a run folder: others in it, a dead owner, moves, clocks, read-only disks, and odd names."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.forked import Bench
from tests.faults.moments import at_call, replaced

SAVED = "posttrain.stages.callbacks:commit_checkpoint"
_real_time = time.time


def an_hour_ago() -> float:
    return _real_time() - 3600


def in_a_year() -> float:
    return _real_time() + 365 * 86400


@pytest.mark.slow
def test_two_runs_in_one_folder(bench: Bench) -> None:
    folder = bench.case("two", "sft")
    first = bench.start(folder, "sft", at_call(SAVED, 1, signal.SIGSTOP))
    while not list(folder.glob("stages/sft-*/scratch/*")):
        time.sleep(0.01)
    log = bench.log(folder).read_text()
    begun = time.monotonic()
    second = bench.run(folder, "sft")
    assert time.monotonic() - begun < 30
    assert second.code == 1
    assert f"RunLockedError: {folder} is in use by process {first.pid} on " in second.log
    while not stopped(first.pid):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0, log
    bench.is_the_same(folder, "sft")


def stopped(pid: int) -> bool:
    return "State:\tT" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
def test_a_dead_owner_leaves_no_lock(bench: Bench) -> None:
    folder = bench.case("dead owner", "sft")
    first = bench.start(folder, "sft", at_call(SAVED, 2, signal.SIGSTOP))
    while not stopped(first.pid):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    bench.ends_the_same(folder, "sft")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "with spaces",
        "训练 第一次",
        'it\'s "quoted"',
        "100%s {x} $HOME `id`",
        "-rf",
        "a;b&c|d",
        "🚢",
        "x" * 120,
        "new\nline",
    ],
)
def test_moved_into_a_folder_of_any_name_it_goes_on(bench: Bench, name: str) -> None:
    """Killed in the middle, moved with all that is in it, and run where it stands now."""
    before, _ = bench.after_three(f"move {abs(hash(name))}", "sft")
    folder = bench.root / "moved" / name
    folder.parent.mkdir(exist_ok=True)
    shutil.move(before, folder)
    one_too_many = at_call("torch.optim:AdamW.step", 2)
    bench.ends_the_same(folder, "sft", one_too_many)
    again = folder.rename(bench.root / "moved" / "finished")
    bench.ends_the_same(again, "sft", at_call("torch.optim:AdamW.step", 1))
    bench.drop(again)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["relative", "link"])
def test_a_path_of_another_form(bench: Bench, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = bench.after_three(f"form {way}", "sft")
    if way == "link":
        (bench.root / "link").symlink_to(folder)
        given = bench.root / "link"
    else:
        given = Path(os.path.relpath(folder))
    ended = bench.run(given, "sft", at_call("torch.optim:AdamW.step", 2))
    ended.finished()
    bench.is_the_same(folder, "sft")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_times_of_files_say_nothing(bench: Bench, seed: int) -> None:
    """As after a copy, or a restored backup: from 1970 to far ahead, in no order."""
    folder, _ = bench.after_three(f"times {seed}", "sft")
    draw = random.Random(seed)
    for path in folder.rglob("*"):
        os.utime(path, (draw.uniform(0, 4e9),) * 2)
    bench.ends_the_same(folder, "sft", at_call("torch.optim:AdamW.step", 2))


@pytest.mark.slow
@pytest.mark.parametrize("clock", [an_hour_ago, in_a_year])
def test_the_clock_jumps(bench: Bench, clock: object) -> None:
    folder, _ = bench.after_three(f"clock {clock.__name__}", "sft")  # type: ignore[attr-defined]
    bench.ends_the_same(folder, "sft", replaced("time:time", clock), at_call("torch.optim:AdamW.step", 2))


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written(bench: Bench, begun: bool) -> None:
    disk = bench.root / f"read-only {begun}"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets us mount no file system")
    try:
        folder = disk / "run"
        if begun:
            shutil.move(bench.after_three("read-only", "sft")[0], folder)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refused = bench.run(folder, "sft")
        assert refused.code == 1 and "RunFolderError: The run folder" in refused.log
        assert "choose another run_dir" in refused.log
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        last = "sft" if begun else "cpt"
        bench.ends_the_same(folder, last)
    finally:
        subprocess.run(["umount", disk], check=True)
