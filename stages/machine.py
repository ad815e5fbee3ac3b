"""What this machine offers a trainer: device, memory, 16-bit arithmetic."""

import os
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Machine:
    """The device that training runs on."""

    on_gpu: bool
    bf16: bool  # fast bfloat16; on a CPU without it bfloat16 is 70 times slower than float32
    memory_bytes: int  # of the device

    @property
    def usable_bytes(self) -> int:
        """What a plan may fill: the rest is the driver's, other programs', and the estimate's error."""
        return int(0.9 * self.memory_bytes)

    @property
    def name(self) -> str:
        return "GPU" if self.on_gpu else "CPU"


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Looks once; imports torch."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine(on_gpu=True, bf16=torch.cuda.is_bf16_supported(), memory_bytes=memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(on_gpu=False, bf16=False, memory_bytes=memory)
