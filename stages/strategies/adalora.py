"""AdaLoRA: ranks that move to the layers that need them while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import SettingError, StrategyError

from ...pipeline.settings import check_number, refuse
from .strategy import Capabilities, Schedule, StepHooks
from .tuner import TargetModules, Tuner, read_targets

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_STEPS = 10


@dataclass(frozen=True)
class AdaLoRA(Tuner):
    """W + P diag(E) Q, whose triplets are pruned by importance from rank r to target_r on average.

    Zhang et al., arXiv 2303.10512. r: rank that each layer starts with. target_r: mean rank at the end.
    warmup, final: shares of the optimizer steps before the pruning begins and after it has ended.
    alpha, dropout, target_modules: as of LoRA. orthogonality: weight of the loss that keeps P and Q orthogonal.
    At least 10 optimizer steps. Usual learning rates: LoRA's, up to 1e-2.
    """

    r: int = 12
    target_r: int = 8
    alpha: int | None = None  # None: 2 r
    dropout: float = 0.0
    warmup: float = 0.1
    final: float = 0.3
    orthogonality: float = 0.1
    target_modules: TargetModules = "all-linear"

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=False, identity_at_start=True, several_at_once=False, shardable=False
    )
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        for name in ("r", "target_r"):
            if getattr(self, name) is None:
                refuse("AdaLoRA", name, None, "a whole number at least 1")
            check_number("AdaLoRA", name, getattr(self, name), least=1, whole=True)
        check_number("AdaLoRA", "alpha", self.alpha, least=1, whole=True)
        check_number("AdaLoRA", "orthogonality", self.orthogonality, least=0.0)
        for name in ("dropout", "warmup", "final"):
            check_number("AdaLoRA", name, getattr(self, name), least=0.0, below=1.0)
        if self.target_r >= self.r:
            raise SettingError(
                f"AdaLoRA(r={self.r}, target_r={self.target_r}): target_r must be below r, or nothing is pruned; take "
                "LoRA for ranks that stay."
            )
        if self.warmup + self.final >= 1:
            raise SettingError(
                f"AdaLoRA(warmup={self.warmup:g}, final={self.final:g}): together they must leave steps for pruning."
            )
        object.__setattr__(self, "target_modules", read_targets("AdaLoRA", self.target_modules))

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=self.r, target_r=self.target_r, lora_alpha=2 * self.r if self.alpha is None else self.alpha,
            lora_dropout=self.dropout, total_step=2**31, **common,  # the real number comes with the hooks
        )  # fmt: skip

    def check_schedule(self, schedule: Schedule, layers: int) -> None:
        if schedule.total < _LEAST_STEPS:
            raise StrategyError(
                f"AdaLoRA moves ranks over the optimizer steps, and {schedule.total} are too few; it takes at least "
                f"{_LEAST_STEPS}."
            )

    def hooks(self, model: Any, schedule: Schedule) -> StepHooks:
        total_steps = schedule.total
        config = model.peft_config["default"]
        config.total_step = total_steps
        config.tinit, config.tfinal = int(self.warmup * total_steps), max(1, int(self.final * total_steps))
        return _Allocator(model, config, self.orthogonality)


class _Allocator(StepHooks):
    """PEFT's rank allocator, called at every step. PEFT leaves that to the trainer, and none does it.

    Pruned triplets are masked with zeros and stay in place, so that shapes, optimizer and checkpoints stay whole.
    """

    def __init__(self, model: Any, config: Any, orthogonality: float) -> None:
        self._model, self._config, self._weight = model, config, orthogonality
        self._allocator = model.base_model.rankallocator
        self._pattern: dict[str, list[bool]] = {}  # which triplets are left, by the name of their E

    def before_step(self) -> None:
        """Add the gradient of the mean Frobenius distance of P'P and QQ' from the identity."""
        import torch

        if not self._weight:
            return
        factors = [(n, p) for n, p in self._parameters() if "lora_A" in n or "lora_B" in n]
        with torch.enable_grad():
            total = torch.zeros((), device=factors[0][1].device)
            for name, factor in factors:
                gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
                total = total + torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device))
            (self._weight * total / len(factors)).backward()

    def after_step(self, step: int) -> None:
        inner, last = self._model.base_model.model, self._config.total_step - self._config.tfinal
        if step <= last:
            _, pattern = self._allocator.update_and_allocate(inner, step, force_mask=step == last)
            self._pattern = pattern or self._pattern
            if step == last:
                self._allocator.reset_ipt()
        else:
            self._allocator.mask_using_rank_pattern(inner, self._pattern)

    def numbers(self) -> dict[str, float]:
        """rank_kept: of all layers together."""
        return {"rank_kept": float(sum(sum(kept) for kept in self._pattern.values()))}

    def state(self) -> dict[str, Tensor]:
        import torch

        kept = {
            f"{kind}.{name}": value
            for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            for name, value in getattr(self._allocator, kind).items()
        }
        return kept | {f"pattern.{name}": torch.tensor(mask) for name, mask in self._pattern.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._allocator.reset_ipt()
        for key, value in state.items():
            kind, _, name = key.partition(".")
            if kind == "pattern":
                self._pattern[name] = value.tolist()
            else:
                getattr(self._allocator, kind)[name] = value.clone()

    def _parameters(self) -> list[tuple[str, Any]]:
        return [(n, p) for n, p in self._model.named_parameters() if ".default" in n and p.requires_grad]
