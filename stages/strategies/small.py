"""Adapters of a few thousand parameters: scales, shared random projections, rotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from posttrain.errors import StrategyError

from ...pipeline.settings import check_number, refuse
from .strategy import Capabilities, Task
from .tuner import TargetModules, Tuner, read_targets

_LIKE_LORA = Capabilities(mergeable=True, continuable=True, identity_at_start=True)


@dataclass(frozen=True)
class IA3(Tuner):
    """Scales for keys, values and the feed-forward's inner activations, 1 at the start (Liu et al., arXiv 2205.05638).

    target_modules: None takes PEFT's table for the architecture (k_proj, v_proj, down_proj of a Llama).
    feedforward_modules: those of the targets whose input is scaled instead of their output.
    About 0.01 % of a model's parameters; for few rows. Usual learning rates: 1e-3 to 1e-2.
    """

    target_modules: Sequence[str] | None = None
    feedforward_modules: Sequence[str] | None = None

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 150.0

    def __post_init__(self) -> None:
        if (self.target_modules is None) != (self.feedforward_modules is None):
            refuse("IA3", "feedforward_modules", self.feedforward_modules,
                   "given together with target_modules (a list, which may be empty), or both left out")  # fmt: skip
        if self.target_modules is not None and self.feedforward_modules is not None:
            targets, inputs = read_targets("IA3", self.target_modules), tuple(self.feedforward_modules)
            if not set(inputs) <= set(targets):
                refuse("IA3", "feedforward_modules", inputs, f"some of target_modules, {list(targets)}")
            object.__setattr__(self, "target_modules", targets)
            object.__setattr__(self, "feedforward_modules", inputs)

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        kind = model.config.get_text_config().model_type
        if self.target_modules is None and kind not in KNOWN:
            raise StrategyError(
                f"IA3: PEFT has no table of layers for a model of type {kind!r}; name them with target_modules= (keys, "
                "values and the feed-forward's output) and feedforward_modules=."
            )
        return super().wrap(model, task, seed)

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import IA3Config

        inputs = None if self.feedforward_modules is None else list(self.feedforward_modules)
        return IA3Config(feedforward_modules=inputs, **common)


@dataclass(frozen=True)
class VeRA(Tuner):
    """W + diag(b) B diag(d) A with random A and B that all layers share and nobody trains; b and d are trained.

    Kopiczko et al., arXiv 2310.11454. r: rank of the projections, usually 64 to 1024. dropout: on the input.
    A tenth of LoRA's parameters and less; the projections are saved with the adapter. Usual learning rates: 1e-3 to
    1e-2.
    """

    r: int = 256
    dropout: float = 0.0
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 100.0

    def __post_init__(self) -> None:
        check_number("VeRA", "r", self.r, least=1, whole=True)
        check_number("VeRA", "dropout", self.dropout, least=0.0, below=1.0)
        object.__setattr__(self, "target_modules", read_targets("VeRA", self.target_modules))

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import VeraConfig

        return VeraConfig(r=self.r, vera_dropout=self.dropout, save_projection=True, **common)


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
