"""Freed memory stays in the process while a stage trains, but for large blocks while activations are computed again."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from posttrain import DPO, SFT, LoRA, Pipeline
from posttrain.pipeline.allocator import _glibc
from posttrain.stages import training

needs_glibc = pytest.mark.skipif(_glibc() is None, reason="its malloc can be told")
CODE = """
import sys, torch
from contextlib import nullcontext
from posttrain.pipeline.allocator import freed_memory_kept, large_blocks_returned

def resident():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

with freed_memory_kept():
    before = resident()
    with large_blocks_returned() if sys.argv[1] == "returned" else nullcontext():
        del [torch.ones(2**21) for _ in range(20)][:]  # 8 MB each
        freed = resident() - before
    del [torch.ones(2**21) for _ in range(20)][:]
    again = resident() - before
print(freed, again, resident() - before)
"""


@needs_glibc
@pytest.mark.parametrize(("way", "kept"), [("kept", True), ("returned", False)])
def test_large_blocks_stay_or_go_when_they_are_freed(way: str, kept: bool) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, way], capture_output=True, text=True, check=True)
    freed, again, after = map(int, done.stdout.split())
    assert (freed > 120) is kept
    assert again > 120  # kept once more, behind the returning part
    assert after < 40  # and all given back in the end


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize(("kind", "column"), [(SFT, "chat"), (DPO, "pairs")])
def test_they_go_where_activations_are_computed_again(
    tiny: Callable[..., Pipeline],
    rows: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    column: str,
    recomputes: bool,
) -> None:
    asked = list[bool]()

    def returned() -> AbstractContextManager[None]:
        asked.append(True)
        return nullcontext()

    monkeypatch.setattr(training, "large_blocks_returned", returned)
    given = {"gradient_checkpointing": recomputes}
    tiny([kind(LoRA(r=2), data=rows[column], max_steps=1, trainer_args=given)]).run()
    assert asked == [True] * recomputes
