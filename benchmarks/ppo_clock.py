"""What both sides of ppo.py are measured with."""

from __future__ import annotations

import time
from pathlib import Path

import torch


def gemm_rate() -> float:
    """GFLOP/s of the products that a layer of the model does, right now: the machine is not always equally fast."""
    x, w = torch.ones(1376, 576), torch.ones(1536, 576)
    begun, rounds = time.monotonic(), 40
    for _ in range(rounds):
        torch.nn.functional.linear(x, w)
    return rounds * 2 * 1376 * 576 * 1536 / 1e9 / (time.monotonic() - begun)


def peak_bytes() -> int:
    """The largest resident memory of this process so far, without a parent's; on a GPU what PyTorch gave out of its memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    (line,) = [
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024
