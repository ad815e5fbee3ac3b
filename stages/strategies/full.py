"""Full fine-tuning: every parameter is trained, and the result is a new base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...pipeline.settings import check_number
from .depth import Depths
from .strategy import Capabilities, Strategy, Task

MAKES_BASE = Capabilities(
    mergeable=True, continuable=False, identity_at_start=True, makes_base=True, several_at_once=False
)


@dataclass(frozen=True)
class Full(Strategy):
    """Train all parameters.

    For much data and much memory: weights, gradients and two optimizer moments of every parameter, 16 bytes each.
    Usual learning rates: 1e-6 (DPO) to 2e-5 (SFT, CPT).
    llrd: layer-wise learning-rate decay, usually 0.8 to 0.95: of L layers, layer l (from 0) learns at
    learning_rate * llrd^(L - l - 1), the embeddings at learning_rate * llrd^L, head and last norm at learning_rate; a
    head that is tied to the embeddings learns as they do (Howard and Ruder, arXiv 1801.06146). For small data.
    """

    llrd: float | None = field(default=None, kw_only=True)

    capabilities: ClassVar[Capabilities] = MAKES_BASE
    learning_rate_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_number(type(self).__name__, "llrd", self.llrd, above=0.0, most=1.0)

    @property
    def by_depth(self) -> bool:
        return self.llrd is not None

    def weights_dtype(self, on_gpu: bool) -> Any:
        """float32 everywhere: bfloat16 weights are too coarse for steps of a learning rate of 1e-6."""
        import torch

        return torch.float32

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        return model.requires_grad_(True)

    def rate_factors(self, model: Any) -> Mapping[str, float]:
        if self.llrd is None:
            return {}
        depths = Depths.of(model, f"{type(self).__name__}(llrd={self.llrd:g})")
        return {name: self.llrd ** max(0, len(depths) - depth) for name, depth in depths.by_name.items()}
