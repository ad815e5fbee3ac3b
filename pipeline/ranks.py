"""The processes of one launch: they train together, and the first of them writes."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posttrain.errors import LaunchError

from .engine import Sharding, sharding_of

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those that `accelerate launch` or `torchrun` started. Alone, nothing costs anything.

    Every method but `main` must be called by all ranks, in the same order.
    """

    rank: int = 0
    size: int = 1
    sharding: Sharding | None = None  # of a model while it trains; None: each holds a whole one

    @classmethod
    def of_environment(cls) -> Ranks:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ.get("RANK", "0")), size, sharding_of(os.environ) if size > 1 else None)

    @property
    def parts(self) -> int:
        """Over how many of them gradients and optimizer states are divided."""
        return 1 if self.sharding is None else self.size

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def check_shared(self, folder: Path) -> None:
        """Raises LaunchError on all ranks when one of them does not see what the main rank wrote into the folder."""
        if self.size == 1:
            return
        seen = self.gather(
            (socket.gethostname(), self.share(_mark(folder) if self.main else "") == _mark(folder))
        )
        blind = [host for host, sees in seen if not sees]
        if blind:
            raise LaunchError(
                f"The machine {blind[0]} does not see the run folder {folder} of the machine {seen[0][0]}; choose a "
                "run_dir on a file system that all of them share."
            )

    def connect(self) -> None:
        """Meet the others, by the backend that accelerate takes for the machine: NCCL on GPUs, gloo on CPUs."""
        if self.size > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def share(self, value: T) -> T:
        """The main rank's value."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank."""
        return any(self.gather(flag))

    def add(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on the device of `values`."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        moved = values.cuda() if dist.get_backend() == "nccl" else values
        dist.all_reduce(moved)
        return moved.to(values.device)

    def mine(self, count: int) -> range:
        """The places of `count` things that are this rank's; the ranks' shares follow each other."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


def _mark(folder: Path) -> str:
    """The content of the lock, which names one process of one machine; "" where it is not seen."""
    try:
        return (folder / ".lock").read_text()
    except OSError:
        return ""
