"""Linear layers whose rows may each have an adapter of their own.

# B rows, Q new tokens of each, I input and O output features, R rank
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import StrategyError
from posttrain.pipeline.plain_lora import Factors, PlainLora


class Rows:
    """Which rows of the next forward pass have which adapter; shared by all layers, so it is worked out once."""

    def __init__(self) -> None:
        self._of: list[str] = []
        self.groups: dict[str, Tensor | None] = {}  # None: all rows

    def aim(self, adapters: Sequence[str], device: Any) -> None:
        if adapters == self._of:
            return
        self._of = list(adapters)
        found: dict[str, list[int]] = {}
        for row, name in enumerate(adapters):
            found.setdefault(name, []).append(row)
        self.groups = {
            name: None if len(rows) == len(adapters) else torch.tensor(rows, device=device)
            for name, rows in found.items()
        }


class MixedLora(nn.Module):
    """y = x Wᵀ, and for each row what its adapter adds: (x Aᵀ) Bᵀ. A row whose adapter has no factors here is the base's."""

    def __init__(self, base: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.base, self._rows = base, rows
        self.factors: dict[str, Factors] = {}

    def forward(self, x_BQI: Tensor) -> Tensor:
        y_BQO: Tensor = self.base(x_BQI)
        for name, at in self._rows.groups.items():
            if (one := self.factors.get(name)) is None:
                continue
            if at is None:
                y_BQO += x_BQI @ one.a_RI.T @ one.b_OR.T
            else:
                y_BQO.index_add_(0, at, x_BQI[at] @ one.a_RI.T @ one.b_OR.T)
        return y_BQO


class Adapters:
    """The adapters of one model."""

    def __init__(self, model: Any) -> None:
        self._model, self._rows = model, Rows()
        self._layers: dict[str, MixedLora] = {}

    def add(self, name: str, lora: PlainLora) -> None:
        """Raises StrategyError when the model has not the layers of the adapter."""
        modules = dict(self._model.named_modules())
        if missing := next(
            (one for one in lora.layers if one not in self._layers and one not in modules), None
        ):
            raise StrategyError(f"The adapter changes {missing}, which the model does not have.")
        for layer_name, factors in lora.layers.items():
            if layer_name not in self._layers:
                layer = MixedLora(modules[layer_name], self._rows)
                self._model.set_submodule(layer_name, layer)
                self._layers[layer_name] = layer
            like = {"dtype": self._model.dtype, "device": self._model.device}
            self._layers[layer_name].factors[name] = Factors(factors.a_RI.to(**like), factors.b_OR.to(**like))

    def remove(self, name: str) -> None:
        for layer in self._layers.values():
            layer.factors.pop(name, None)

    def aim(self, adapters: Sequence[str]) -> None:
        """The next forward pass is of rows with these adapters; a name that nobody added is the base's."""
        self._rows.aim(adapters, self._model.device)
