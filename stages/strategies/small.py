"""Adapters of a few thousand parameters: scales of values, of norms, of shared random projections."""

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
class LNTuning(Tuner):
    """Train every normalisation layer's scale (and bias), and nothing else (Zhao et al., arXiv 2312.11420).

    0.003 % to 0.03 % of a model's parameters. Suits small data and a change of tone or domain more than new knowledge.
    On a GPU the base is loaded in float32: PEFT trains copies of the norms, which 16-bit steps would not move.
    Usual learning rates: 1e-4 to 2e-3.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True, several_at_once=False
    )
    learning_rate_factor: ClassVar[float] = 50.0

    def weights_dtype(self, on_gpu: bool) -> Any:
        import torch

        return torch.float32

    def find_targets(self, model: Any) -> Sequence[str]:
        names = [name for name, layer in model.named_modules() if _is_norm(layer)]
        if not names:
            raise StrategyError(
                f"LNTuning: {type(model).__name__} has no normalisation layer with a weight; take another strategy."
            )
        return names

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import LNTuningConfig

        return LNTuningConfig(**common)


def _is_norm(layer: Any) -> bool:
    """LayerNorm, RMSNorm and every model's own kind of them."""
    return "Norm" in type(layer).__name__ and getattr(layer, "weight", None) is not None
