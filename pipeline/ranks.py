"""The processes of one launch: they train together, and the first of them writes."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posttrain.errors import LaunchError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# What accelerate's launcher sets in the environment of its processes.
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those that `accelerate launch` or `torchrun` started. Alone, nothing costs anything.

    Every method but `main` must be called by all ranks, in the same order.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def check_engine(self) -> None:
        """Raises LaunchError for an engine that shards the model: one process would save its part of it as the whole."""
        for variable, engine in _SHARDING.items():
            if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
                raise LaunchError(
                    f"The launcher asks for {engine}, which splits the model over the processes, and posttrain's stages "
                    "keep a whole copy in each; start it with recipes/launch/ddp.yaml or --multi_gpu, and where the model "
                    "does not fit on one GPU take auto('24GB') or QLoRA(r=16) as strategy."
                )

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
