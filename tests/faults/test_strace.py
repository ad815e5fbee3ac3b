"""From outside: strace kills a stage at the k-th file call of its saves, which no wrapper in Python sees coming."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.forked import Bench
from tests.faults.moments import at_call

CALLS = (
    "openat",
    "write",
    "pwrite64",
    "writev",
    "rename",
    "fsync",
    "mkdir",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
)


def can_trace() -> bool:
    found = shutil.which("strace")
    return (
        bool(found) and subprocess.run([found, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    )


def save_of(bench: Bench, folder: Path, *more: str) -> int:
    """Stop before the third checkpoint is committed, attach strace, and go on; returns the exit code."""
    process = bench.start(
        folder, "sft", at_call("posttrain.stages.callbacks:commit_checkpoint", 3, signal.SIGSTOP)
    )
    while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
        time.sleep(0.01)
    log = bench.root / "strace"
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", str(log), "-p", str(process.pid), "-e", f"trace={','.join(CALLS)}", *more]
    )
    while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{process.pid}/status").read_text():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    tracer.wait()
    return int(process.exitcode)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not can_trace(), reason="needs strace and the right to trace")
@pytest.mark.parametrize("part", range(3))
def test_killed_at_a_file_call_of_a_save(bench: Bench, part: int) -> None:
    whole = bench.case(f"strace {part}", "sft")
    assert save_of(bench, whole) == 0
    bench.is_the_same(whole, "sft")
    calls = Counter(line.partition("(")[0] for line in (bench.root / "strace").read_text().splitlines())
    # strace counts each kind of call by itself
    places = [(name, at) for name in CALLS for at in range(1, calls[name] + 1)]
    assert len(places) > 60 and len({name for name, _ in places}) >= 6
    for name, at in places[part :: max(3, len(places) // 24 // 3 * 3)]:
        folder = bench.case(f"strace {name} {at}", "sft")
        killed = save_of(bench, folder, "-e", f"inject={name}:signal=SIGKILL:when={at}")
        assert killed == -signal.SIGKILL, f"{name} {at}"
        bench.ends_the_same(folder, "sft")
        bench.drop(folder)
