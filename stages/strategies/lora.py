"""LoRA: a low-rank update beside frozen linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from posttrain.errors import SettingError, StrategyError

from ...pipeline.settings import check_number, refuse
from .strategy import Capabilities, Strategy, Task

_TASK_TYPES = {"policy": "CAUSAL_LM", "reward": "SEQ_CLS"}
_HEADS = ("lm_head", "score", "classifier", "embed_out")


@dataclass(frozen=True)
class LoRA(Strategy):
    """W + (alpha / r) B A, with W frozen (Hu et al., arXiv 2106.09685).

    r: rank, usually 4 to 64. alpha: scale, usually r to 4 r. dropout: on the adapter's input, 0 to 0.1.
    target_modules: "all-linear" (every linear layer but the head), or the leaf names of layers such as
    ("q_proj", "v_proj"). Suits every stage and model.
    """

    r: int = 16
    alpha: int | None = None  # None: 2 r
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | Sequence[str] = "all-linear"

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True
    )
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_number(owner, "r", self.r, least=1, whole=True)
        check_number(owner, "alpha", self.alpha, least=1, whole=True)
        check_number(owner, "dropout", self.dropout, least=0.0, below=1.0)
        if self.r is None or self.dropout is None:
            refuse(owner, "r" if self.r is None else "dropout", None, "a number")
        if self.target_modules != "all-linear":
            names = self.target_modules
            if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
                refuse(
                    owner,
                    "target_modules",
                    names,
                    "'all-linear' or a list of layer names, as ['q_proj', 'v_proj']",
                )
            if heads := [name for name in names if name in _HEADS]:
                raise SettingError(
                    f"{owner}(target_modules={list(names)!r}): {heads[0]} is the head, which the fused loss reads "
                    "directly, so an adapter on it would never be trained; leave it out."
                )
            object.__setattr__(self, "target_modules", tuple(names))  # so that strategies compare and hash

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed

        names = self.target_modules
        if names != "all-linear":
            check_targets(names, (name for name, layer in model.named_modules() if _is_linear(layer)))
        set_seed(seed)
        config = LoraConfig(
            r=self.r, lora_alpha=2 * self.r if self.alpha is None else self.alpha, lora_dropout=self.dropout,
            target_modules=names if isinstance(names, str) else list(names), task_type=_TASK_TYPES[task],
        )  # fmt: skip
        return get_peft_model(model, config)


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA over a base in 4-bit NF4 with double quantisation (Dettmers et al., arXiv 2305.14314).

    About 0.6 bytes per frozen parameter instead of 2. At the hand-over the adapter is merged into the 16-bit base
    and into the dequantised one, both are measured against the trained model, and the nearer one is kept.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=True, identity_at_start=True, four_bit_base=True
    )

    def prepare_base(self, model: Any) -> Any:
        from ...pipeline.quantization import quantise_nf4

        return quantise_nf4(model, model.dtype)


def check_targets(wanted: Iterable[str], layers: Iterable[str]) -> None:
    """Raises StrategyError for the names in `wanted` that no linear layer ends with, naming the real ones."""
    found = list(layers)
    missing = [
        name for name in wanted if not any(layer == name or layer.endswith("." + name) for layer in found)
    ]
    if missing:
        leaves = sorted({layer.rsplit(".", 1)[-1] for layer in found} - set(_HEADS))
        raise StrategyError(
            f"target_modules: the model has no linear layer called {', '.join(map(repr, missing))}; "
            f"it has {', '.join(leaves)}."
        )


def _is_linear(layer: Any) -> bool:
    import torch

    return isinstance(layer, torch.nn.Linear)
