"""LoRA: a low-rank update beside frozen linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...pipeline.settings import check_choice, check_number, refuse
from .strategy import Capabilities
from .tuner import TargetModules, Tuner, read_targets


@dataclass(frozen=True)
class LoRA(Tuner):
    """W + (alpha / r) B A, with W frozen (Hu et al., arXiv 2106.09685).

    r: rank, usually 4 to 64. alpha: scale, usually r to 4 r. dropout: on the adapter's input, 0 to 0.1.
    target_modules: "all-linear" (every linear layer but the head), or the leaf names of layers such as
    ("q_proj", "v_proj"). Suits every stage and model.
    variant: "rslora" scales by alpha / sqrt(r), for high ranks (Kalajdzievski, arXiv 2312.03732); "dora" trains the
    length of each weight's rows beside their direction (Liu et al., arXiv 2402.09353), for low ranks, half as fast.
    """

    r: int = 16
    alpha: int | None = None  # None: 2 r
    dropout: float = 0.0
    target_modules: TargetModules = "all-linear"
    variant: Literal["rslora", "dora"] | None = None

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
        if self.variant is not None:
            check_choice(owner, "variant", self.variant, ("rslora", "dora"))
        object.__setattr__(self, "target_modules", read_targets(owner, self.target_modules))

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.r, lora_alpha=2 * self.r if self.alpha is None else self.alpha, lora_dropout=self.dropout,
            use_rslora=self.variant == "rslora", use_dora=self.variant == "dora", **common,
        )  # fmt: skip


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
