"""Where in a model a parameter stands: embeddings, layer by layer, and what comes after the last one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from posttrain.errors import StrategyError


@dataclass(frozen=True)
class Depths:
    """The transformer layers of a model, from the bottom up."""

    layers: Any  # the ModuleList
    prefix: str  # its name in the model
    model: Any

    @classmethod
    def of(cls, model: Any, owner: str) -> Depths:
        """The layers are the longest list of modules. Raises StrategyError, for `owner`, where there is none."""
        import torch

        lists = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
        if not lists:
            raise StrategyError(f"{owner}: {type(model).__name__} has no list of layers.")
        prefix, layers = max(lists, key=lambda found: len(found[1]))
        return cls(layers, prefix, model)

    def __len__(self) -> int:
        return len(self.layers)

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Parameter name -> depth: 0 embeddings, 1 to L the layers, L + 1 norms and heads after them.

        A head that is tied to the embeddings is one parameter with them, and has their depth.
        """
        embeddings = [self.model.get_input_embeddings()]
        below = {id(p) for module in embeddings if module is not None for p in module.parameters()}
        found = {}
        for name, parameter in self.model.named_parameters():
            if name.startswith(f"{self.prefix}."):
                found[name] = 1 + int(name.removeprefix(f"{self.prefix}.").split(".")[0])
            elif id(parameter) in below or "embed" in name:  # of positions and token types, too
                found[name] = 0
            else:
                found[name] = len(self.layers) + 1
        return found
