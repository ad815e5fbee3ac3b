"""Gradual unfreezing: the top of the model learns first, then one layer more, and so on down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from posttrain.errors import SettingError, StrategyError

from ...pipeline.settings import check_number, refuse
from .depth import Depths
from .full import MAKES_BASE, Full
from .strategy import Capabilities, Schedule, StepHooks, Task


@dataclass(frozen=True)
class GradualUnfreeze(Full):
    """Train the head and the top `first` layers, then one layer more at each interval, and the embeddings last.

    Howard and Ruder, arXiv 1801.06146 (ULMFiT). For small data on a model that should forget little. Usual learning
    rates: those of Full.
    first: how many layers are trained from the start.
    layers: how many are trained in the end; None is all of them and the embeddings.
    every_steps, every_epochs: the interval, in optimizer steps or in passes over the data; where neither is given, all
    that is to be trained is trained from the middle of the stage on.
    A layer's optimizer state begins with its first step. llrd: as of Full.
    """

    first: int = 1
    layers: int | None = None
    every_steps: int | None = None
    every_epochs: float | None = None

    # Parameters are frozen and thawed between the steps, and those that were divided are not the ones it knows.
    capabilities: ClassVar[Capabilities] = replace(MAKES_BASE, shardable=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is None:
            refuse("GradualUnfreeze", "first", None, "a whole number at least 0")
        check_number("GradualUnfreeze", "first", self.first, least=0, whole=True)
        check_number("GradualUnfreeze", "layers", self.layers, least=1, whole=True)
        check_number("GradualUnfreeze", "every_steps", self.every_steps, least=1, whole=True)
        check_number("GradualUnfreeze", "every_epochs", self.every_epochs, above=0.0)
        if self.every_steps is not None and self.every_epochs is not None:
            raise SettingError("GradualUnfreeze: every_steps and every_epochs are both given; leave one out.")
        if self.layers is not None and self.layers <= self.first:
            raise SettingError(
                f"GradualUnfreeze(first={self.first}, layers={self.layers}): nothing would be unfrozen; take "
                f"Freeze(layers={self.layers}) for layers that are trained from the start."
            )

    @property
    def by_depth(self) -> bool:
        return True

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        """All that will be trained, since the optimizer is made of it; `hooks` freeze it again until its time."""
        depths = Depths.of(model, "GradualUnfreeze")
        if max(self.first, self.layers or 0) > len(depths):
            setting = "layers" if self.layers else "first"
            raise StrategyError(
                f"GradualUnfreeze({setting}={getattr(self, setting)}): the model has {len(depths)} layers."
            )
        lowest = self._lowest(len(depths))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(depths.by_name[name] >= lowest)
        return model

    def check_schedule(self, schedule: Schedule, layers: int) -> None:
        last = self.unfreezing(schedule, layers)[self._lowest(layers)]
        if last >= schedule.total:
            raise StrategyError(
                f"GradualUnfreeze: the last part would be unfrozen after step {last}, and the stage has "
                f"{schedule.total} optimizer steps; train longer, or take a shorter interval or fewer layers."
            )

    def hooks(self, model: Any, schedule: Schedule) -> StepHooks:
        depths = Depths.of(model, "GradualUnfreeze")
        return _Thaw(model, depths.by_name, self.unfreezing(schedule, len(depths)))

    def unfreezing(self, schedule: Schedule, layers: int) -> dict[int, int]:
        """Depth (0 embeddings, 1 to `layers`, above them the head) -> optimizer steps before it is trained."""
        lowest, parts = self._lowest(layers), layers + 1 - self.first - self._lowest(layers)
        if self.every_steps is not None:
            interval = float(self.every_steps)
        elif self.every_epochs is not None:
            interval = self.every_epochs * schedule.per_epoch
        else:
            interval = schedule.total / 2 / max(1, parts)
        return {
            depth: round(max(0, layers + 1 - self.first - depth) * interval)
            for depth in range(lowest, layers + 2)
        }

    def _lowest(self, layers: int) -> int:
        """The depth of what is unfrozen last."""
        return 0 if self.layers is None else layers + 1 - self.layers


class _Thaw(StepHooks):
    """Frozen parameters get no gradient, so the optimizer passes them over and makes their state when they do."""

    def __init__(self, model: Any, depths: Mapping[str, int], begins: Mapping[int, int]) -> None:
        self._named = [(begins[depths[name]], p) for name, p in model.named_parameters() if p.requires_grad]
        self._step = 0

    def begin(self, step: int) -> None:
        self._step = step
        for begins, parameter in self._named:
            parameter.requires_grad_(begins <= step)

    def before_step(self) -> None:
        for begins, parameter in self._named:
            if (
                begins > self._step
            ):  # PPO's switching of roles makes all that is ever trained ask for gradients
                parameter.grad = None

    def after_step(self, step: int) -> None:
        self.begin(step)

    def numbers(self) -> Mapping[str, float]:
        """unfrozen: parameter values that were trained in the end."""
        return {"unfrozen": float(sum(p.numel() for _, p in self._named if p.requires_grad))}
