"""What PEFT's methods on linear layers share: which layers, a config, and a seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import SettingError, StrategyError

from ...pipeline.heads import head_modules
from ...pipeline.settings import refuse
from .strategy import Strategy, Task

TargetModules = Literal["all-linear"] | Sequence[str]
TASK_TYPES: Mapping[Task, str] = {
    "policy": "CAUSAL_LM",
    "reward": "SEQ_CLS",
    "classifier": "SEQ_CLS",
    "token_classifier": "TOKEN_CLS",
    "seq2seq": "SEQ_2_SEQ_LM",
}
HEADS = ("lm_head", "score", "classifier", "embed_out")


@dataclass(frozen=True)
class Tuner(Strategy):
    """An adapter on linear layers, made from a PEFT config.

    target_modules: "all-linear" (every linear layer but the head), or the leaf names of layers.
    """

    @abstractmethod
    def config(self, common: Mapping[str, Any]) -> Any:
        """The PEFT config. common: task_type, and target_modules where the user or the default names them."""

    @property
    def targets(self) -> TargetModules | None:
        """Which layers; None leaves it to PEFT's table for the architecture."""
        found: TargetModules | None = getattr(self, "target_modules", "all-linear")
        return found

    def common(self, model: Any, task: Task) -> dict[str, Any]:
        """What all configs have. Raises StrategyError for targets that the model has not, naming the real ones."""
        common: dict[str, Any] = {"task_type": TASK_TYPES[task]}
        if task in ("classifier", "token_classifier"):
            # PEFT alone knows heads by two names, and would leave a fresh pooler or a second layer as it was drawn.
            common["modules_to_save"] = list(head_modules(model))
        names = self.find_targets(model)
        if names is None:
            return common
        return {**common, "target_modules": names if isinstance(names, str) else list(names)}

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from peft import get_peft_model
        from transformers import set_seed

        config = self.config(self.common(model, task))
        set_seed(seed)
        return get_peft_model(model, config)

    def find_targets(self, model: Any) -> TargetModules | None:
        """`targets`, checked against the layers that the model has."""
        names = self.targets
        if names is not None and not isinstance(names, str):
            check_targets(names, (name for name, _ in linear_layers(model)))
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
        leaves = sorted({layer.rsplit(".", 1)[-1] for layer in found})
        raise StrategyError(
            f"target_modules: the model has no linear layer called {', '.join(map(repr, missing))}; "
            f"it has {', '.join(leaves)}."
        )


def read_names(owner: str, setting: str, names: Sequence[str]) -> tuple[str, ...]:
    """A list of names, as a tuple. Raises SettingError for anything else."""
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
        refuse(owner, setting, names, "a list of names, as ['norm']")
    return tuple(names)


def targeted_layers(model: Any, names: TargetModules | None) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the linear layers that PEFT would adapt for these names."""
    for name, layer in linear_layers(model):
        if names is None or isinstance(names, str) or name.rsplit(".", 1)[-1] in names:
            yield name, layer


def read_layers(owner: str, numbers: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """The numbers of layers, as a tuple. Raises SettingError for what is no number or list of numbers."""
    if numbers is None:
        return None
    given = [numbers] if isinstance(numbers, int) else numbers
    whole = isinstance(given, Sequence) and all(type(number) is int for number in given)
    if not whole or not given:
        refuse(owner, "layers_to_transform", numbers, "the number of a layer or a list of them, as [0, 1]")
    return tuple(given)


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of the linear layers, but those of heads."""
    import torch
    from transformers.pytorch_utils import Conv1D

    heads = head_modules(model) if hasattr(model, getattr(model, "base_model_prefix", "")) else ()
    for name, layer in model.named_modules():
        inside = any(f"{name}.".startswith(f"{head}.") for head in heads)
        if (
            isinstance(layer, (torch.nn.Linear, Conv1D))
            and not inside
            and name.rsplit(".", 1)[-1] not in HEADS
        ):
            yield name, layer
