"""What PEFT's methods on linear layers share: which layers, a config, and a seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import SettingError, StrategyError

from ...pipeline.settings import refuse
from .strategy import Strategy, Task

TargetModules = Literal["all-linear"] | Sequence[str]
TASK_TYPES = {"policy": "CAUSAL_LM", "reward": "SEQ_CLS"}
HEADS = ("lm_head", "score", "classifier", "embed_out")


@dataclass(frozen=True)
class Tuner(Strategy):
    """An adapter on linear layers, made from a PEFT config."""

    @abstractmethod
    def config(self, common: Mapping[str, Any]) -> Any:
        """The PEFT config. common: task_type, and target_modules where the user or the default names them."""

    @property
    def targets(self) -> TargetModules | None:
        """Which layers; None leaves it to PEFT's table for the architecture."""
        found: TargetModules | None = getattr(self, "target_modules", "all-linear")
        return found

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from peft import get_peft_model
        from transformers import set_seed

        names = self.find_targets(model)
        common: dict[str, Any] = {"task_type": TASK_TYPES[task]}
        if names is not None:
            common["target_modules"] = names if isinstance(names, str) else list(names)
        set_seed(seed)
        return get_peft_model(model, self.config(common))

    def find_targets(self, model: Any) -> TargetModules | None:
        """`targets`, checked against the layers that the model has."""
        names = self.targets
        if names is not None and not isinstance(names, str):
            check_targets(names, (name for name, layer in model.named_modules() if _is_linear(layer)))
        return names


def read_targets(owner: str, names: TargetModules) -> TargetModules:
    """Checked, and as a tuple, so that strategies compare and hash.

    Raises SettingError for what is no list of names, or names a head.
    """
    if names == "all-linear":
        return names
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        refuse(
            owner, "target_modules", names, "'all-linear' or a list of layer names, as ['q_proj', 'v_proj']"
        )
    if heads := [name for name in names if name in HEADS]:
        raise SettingError(
            f"{owner}(target_modules={list(names)!r}): {heads[0]} is the head, which the fused loss reads "
            "directly, so an adapter on it would never be trained; leave it out."
        )
    return tuple(names)


def check_targets(wanted: Iterable[str], layers: Iterable[str]) -> None:
    """Raises StrategyError for the names in `wanted` that no linear layer ends with, naming the real ones."""
    found = list(layers)
    missing = [
        name for name in wanted if not any(layer == name or layer.endswith("." + name) for layer in found)
    ]
    if missing:
        leaves = sorted({layer.rsplit(".", 1)[-1] for layer in found} - set(HEADS))
        raise StrategyError(
            f"target_modules: the model has no linear layer called {', '.join(map(repr, missing))}; "
            f"it has {', '.join(leaves)}."
        )


def targeted_layers(model: Any, names: TargetModules | None) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the linear layers that PEFT would adapt for these names."""
    for name, layer in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if (
            _is_linear(layer)
            and leaf not in HEADS
            and (names is None or isinstance(names, str) or leaf in names)
        ):
            yield name, layer


def _is_linear(layer: Any) -> bool:
    import torch

    return isinstance(layer, torch.nn.Linear)
