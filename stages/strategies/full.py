"""Full fine-tuning: every parameter is trained, and the result is a new base."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .strategy import Capabilities, Strategy, Task


@dataclass(frozen=True)
class Full(Strategy):
    """Train all parameters.

    For much data and much memory: weights, gradients and two optimizer moments of every parameter, 16 bytes each.
    Usual learning rates: 1e-6 (DPO) to 2e-5 (SFT, CPT).
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=False, identity_at_start=True, makes_base=True, several_at_once=False
    )
    learning_rate_factor: ClassVar[float] = 1.0

    def weights_dtype(self, on_gpu: bool) -> Any:
        """float32 everywhere: bfloat16 weights are too coarse for steps of a learning rate of 1e-6."""
        import torch

        return torch.float32

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        return model.requires_grad_(True)
