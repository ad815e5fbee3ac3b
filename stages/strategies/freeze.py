"""Freeze: train a part of the model as it is, and leave the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from posttrain.errors import StrategyError

from ...pipeline.heads import TRAINED_HEADS, head_modules
from ...pipeline.settings import check_number, refuse
from .depth import Depths
from .full import MAKES_BASE, Full
from .strategy import Capabilities, Task
from .tuner import read_names


@dataclass(frozen=True)
class Freeze(Full):
    """Train the last `layers` transformer layers and the final norm; embeddings and lower layers stay as they are.

    The head is trained with them only where it is not tied to the embeddings. Between Full and LoRA in memory; the
    result is a new base. Usual learning rates: those of Full, up to 1e-4.
    layers: how many from the top; None is 2, where no modules are named.
    modules: trains what stands below these names instead, in all layers: ("mlp",), ("self_attn", "norm"),
    ("layers.29",). llrd: as of Full.
    """

    layers: int | None = None  # None: 2, where no modules are named
    modules: Sequence[str] | None = None

    capabilities: ClassVar[Capabilities] = MAKES_BASE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Freeze", "layers", self.layers, least=1, whole=True)
        if self.modules is None:
            object.__setattr__(self, "layers", 2 if self.layers is None else self.layers)
            return
        if self.layers is not None:
            refuse("Freeze", "layers", self.layers, "left out where modules are named")
        object.__setattr__(self, "modules", read_names("Freeze", "modules", self.modules))

    @property
    def by_depth(self) -> bool:
        return self.layers is not None or super().by_depth

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        trained = self._named(model) if self.modules is not None else self._top(model)
        fresh = head_modules(model) if task in TRAINED_HEADS else ()  # noise until they are trained
        for name, parameter in model.named_parameters():
            in_head = any(name.startswith(f"{head}.") for head in fresh)
            parameter.requires_grad_(name in trained or in_head)
        return model

    def _top(self, model: Any) -> set[str]:
        depths = Depths.of(model, "Freeze")
        wanted = self.layers or 0
        if wanted > len(depths):
            raise StrategyError(f"Freeze(layers={wanted}): the model has {len(depths)} layers.")
        return {name for name, depth in depths.by_name.items() if depth > len(depths) - wanted}

    def _named(self, model: Any) -> set[str]:
        names = [name for name, _ in model.named_parameters()]
        found: set[str] = set()
        for wanted in self.modules or ():
            below = {name for name in names if f".{wanted}." in f".{name}."}
            if not below:
                parts = sorted(
                    {part for name in names for part in name.split(".")[:-1] if not part.isdigit()}
                )
                raise StrategyError(
                    f"Freeze(modules={list(self.modules or ())!r}): the model has nothing called {wanted!r}; it has "
                    f"{', '.join(parts)}."
                )
            found |= below
        return found
