"""Freeze: train the top of the model as it is, and leave the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from posttrain.errors import StrategyError

from ...pipeline.settings import check_number, refuse
from .full import Full
from .strategy import Capabilities, Task


@dataclass(frozen=True)
class Freeze(Full):
    """Train the last `layers` transformer layers and the final norm; embeddings and lower layers stay as they are.

    The head is trained with them only where it is not tied to the embeddings. Between Full and LoRA in memory; the
    result is a new base. Usual learning rates: those of Full, up to 1e-4.
    """

    layers: int = 2

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=True, continuable=False, identity_at_start=True, makes_base=True, several_at_once=False
    )

    def __post_init__(self) -> None:
        check_number("Freeze", "layers", self.layers, least=1, whole=True)
        if self.layers is None:
            refuse("Freeze", "layers", None, "a whole number at least 1")

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        stack = _layers(model)
        if self.layers > len(stack):
            raise StrategyError(f"Freeze(layers={self.layers}): the model has {len(stack)} layers.")
        model.requires_grad_(False)
        stacked = {id(parameter) for parameter in stack.parameters()}
        kept = {id(parameter) for layer in stack[: -self.layers] for parameter in layer.parameters()}
        above = False
        for parameter in model.parameters():  # embeddings of every sort are defined before the layers
            above = above or id(parameter) in stacked
            parameter.requires_grad_(above and id(parameter) not in kept)
        return model


def _layers(model: Any) -> Any:
    """The list of transformer layers: the longest list of modules in the backbone."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise StrategyError(f"Freeze: {type(model).__name__} has no list of layers.")
    return max(lists, key=len)
