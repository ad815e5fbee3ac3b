"""Orthogonal fine-tuning: weights are turned, and lengths and angles between neurons stay as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from posttrain.errors import StrategyError

from ...pipeline.settings import check_number, refuse
from .strategy import Capabilities, Task
from .tuner import TargetModules, Tuner, read_targets, targeted_layers

_LIKE_LORA = Capabilities(mergeable=True, continuable=True, identity_at_start=True)


@dataclass(frozen=True)
class OFT(Tuner):
    """R W with a block-diagonal rotation R: angles between neurons stay as they were (Qiu et al., arXiv 2306.07280).

    block_size: of R's blocks; must divide every target's input width. Usual learning rates: LoRA's and below.
    """

    block_size: int = 32
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        check_number("OFT", "block_size", self.block_size, least=2, whole=True)
        object.__setattr__(self, "target_modules", read_targets("OFT", self.target_modules))

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        wrapped = super().wrap(model, task, seed)
        for name, layer in wrapped.named_modules():
            found = getattr(layer, "oft_block_size", {}).get("default", self.block_size)
            if found != self.block_size:  # PEFT takes the nearest that fits, and prints it
                raise StrategyError(
                    f"OFT(block_size={self.block_size}): the layer {name.removeprefix('base_model.model.')} reads "
                    f"{layer.in_features} values, which is no multiple of it; take {found}, or leave the layer out."
                )
        return wrapped

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import OFTConfig

        return OFTConfig(oft_block_size=self.block_size, use_cayley_neumann=False, **common)


@dataclass(frozen=True)
class BOFT(Tuner):
    """Several sparse rotations after each other reach what one of OFT's cannot (Liu et al., arXiv 2311.06243).

    block_size: of the blocks of each factor, even, usually 2 to 8. factors: butterfly factors, usually 1 to 4; 1 is OFT
    with a scale for each output. block_size * 2 ** (factors - 1) must divide every target's input width.
    dropout: share of blocks that are left out, 0 to 0.1. Slow: each layer makes its whole rotation (input width squared)
    at every step, so name few target_modules on a large model. Usual learning rates: LoRA's and below.
    """

    block_size: int = 8
    factors: int = 2
    dropout: float = 0.0
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        for name in ("block_size", "factors", "dropout"):
            if getattr(self, name) is None:
                refuse("BOFT", name, None, "a number")
        check_number("BOFT", "block_size", self.block_size, least=2, whole=True)
        check_number("BOFT", "factors", self.factors, least=1, whole=True)
        check_number("BOFT", "dropout", self.dropout, least=0.0, below=1.0)
        if self.block_size % 2:
            refuse("BOFT", "block_size", self.block_size, "an even number")
        object.__setattr__(self, "target_modules", read_targets("BOFT", self.target_modules))

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from ...pipeline.boft import without_permutations

        counted = next(model.parameters()).is_meta
        with without_permutations() if counted else contextlib.nullcontext():
            return super().wrap(model, task, seed)

    def find_targets(self, model: Any) -> TargetModules | None:
        names = super().find_targets(model)
        unit = self.block_size * 2 ** (self.factors - 1)
        for name, layer in targeted_layers(model, names):
            if layer.in_features % unit:
                raise StrategyError(
                    f"BOFT(block_size={self.block_size}, factors={self.factors}): the layer {name} reads "
                    f"{layer.in_features} values, which is no multiple of block_size * 2 ** (factors - 1) = {unit}; lower "
                    "one of them, or leave the layer out."
                )
        return names

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import BOFTConfig

        from ...pipeline.boft import use_torch

        use_torch()
        return BOFTConfig(
            boft_block_size=self.block_size,
            boft_n_butterfly_factor=self.factors,
            boft_dropout=self.dropout,
            **common,
        )
