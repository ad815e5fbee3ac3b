"""The memory that this process holds and held, seen from outside: of the GPU where torch has one, else resident."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """What is held at most from the moment this is made on.

    On a GPU: bytes given out by PyTorch's allocator. Else: resident bytes above those that were resident at that moment,
    so libraries that were imported before do not count.
    """

    def __init__(self) -> None:
        self._before = 0
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        elif _STATUS.exists():
            self._before = _of_status("VmRSS")
            with suppress(OSError):  # a kernel or container that forbids it: the peak is then the process's
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None where the system does not tell."""
        if (cuda := _cuda()) is not None:
            return int(cuda.max_memory_allocated())
        return max(0, _of_status("VmHWM") - self._before) if _STATUS.exists() else None


def held_bytes() -> int | None:
    """On a GPU the allocator's peak so far, else what is resident now; None where the system does not tell."""
    if (cuda := _cuda()) is not None:
        return int(cuda.max_memory_allocated())
    return _of_status("VmRSS") if _STATUS.exists() else None


def _cuda() -> Any:
    """torch.cuda where a GPU is in use in this process; imports nothing."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _of_status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
