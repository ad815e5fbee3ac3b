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
        embeddings = model.get_input_embeddings().weight
        for layer in stack[-self.layers :]:
            layer.requires_grad_(True)
        for name, parameter in model.named_parameters():
            above = not any(name.startswith(f"{prefix}.") for prefix in _prefixes(model, stack))
            if above and parameter is not embeddings:
                parameter.requires_grad_(True)
        return model


def _layers(model: Any) -> Any:
    """The list of transformer layers: the longest list of modules in the backbone."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise StrategyError(f"Freeze: {type(model).__name__} has no list of layers.")
    return max(lists, key=len)


def _prefixes(model: Any, stack: Any) -> list[str]:
    """The names of the layer list and of the embeddings."""
    inner = model.get_input_embeddings()
    return [name for name, module in model.named_modules() if module is stack or module is inner]
