"""Low-rank updates made by other products than LoRA's, from the LyCORIS family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...pipeline.settings import check_number, refuse
from .strategy import Capabilities
from .tuner import TargetModules, Tuner, read_targets

_LIKE_LORA = Capabilities(mergeable=True, continuable=True, identity_at_start=True)


@dataclass(frozen=True)
class LoHa(Tuner):
    """W + (alpha / r) (A1 B1) * (A2 B2), an elementwise product of two low-rank matrices: rank up to r squared.

    Hyeon-Woo et al. (FedPara), arXiv 2108.06098; Yeh et al. (LyCORIS), arXiv 2309.14859. r: of each factor, usually 4
    to 16. alpha: scale, usually r or less. Twice LoRA's parameters at the same r; suits where LoRA's rank is too low.
    Usual learning rates: LoRA's.
    """

    r: int = 8
    alpha: int | None = None  # None: r
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        _check_rank(self)

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import LoHaConfig

        return LoHaConfig(r=self.r, alpha=self.r if self.alpha is None else self.alpha, **common)


@dataclass(frozen=True)
class LoKr(Tuner):
    """W + (alpha / r) C x (A B), a Kronecker product of a small matrix with a low-rank one (Yeh et al., 2309.14859).

    r: rank of A B, usually 4 to 16; where it is half the block's width and more, the block is trained whole. alpha:
    scale, usually r or less. factor: width of C, usually 4 to 16; None takes the nearest to a square, which has the
    fewest parameters: a tenth of LoRA's. Usual learning rates: LoRA's and above.
    """

    r: int = 8
    alpha: int | None = None  # None: r
    factor: int | None = None
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = _LIKE_LORA
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        _check_rank(self)
        check_number("LoKr", "factor", self.factor, least=2, whole=True)

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import LoKrConfig

        return LoKrConfig(
            r=self.r, alpha=self.r if self.alpha is None else self.alpha,
            decompose_factor=-1 if self.factor is None else self.factor, **common,
        )  # fmt: skip


def _check_rank(strategy: LoHa | LoKr) -> None:
    owner = type(strategy).__name__
    if strategy.r is None:
        refuse(owner, "r", None, "a whole number at least 1")
    check_number(owner, "r", strategy.r, least=1, whole=True)
    check_number(owner, "alpha", strategy.alpha, least=1, whole=True)
    object.__setattr__(strategy, "target_modules", read_targets(owner, strategy.target_modules))
