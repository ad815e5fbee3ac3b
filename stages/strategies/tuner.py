"""What PEFT's methods on linear layers share: which layers, a config, and a seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import SettingError, StrategyError

from ...pipeline.heads import head_modules
from ...pipeline.settings import refuse
from .strategy import Strategy, Task

TargetModules = Literal["all-linear"] | Sequence[str]
_TASK_TYPES: Mapping[Task, str] = {
    "policy": "CAUSAL_LM",
    "reward": "SEQ_CLS",
    "classifier": "SEQ_CLS",
    "token_classifier": "TOKEN_CLS",
    "seq2seq": "SEQ_2_SEQ_LM",
}
_HEADS = ("lm_head", "score", "classifier", "embed_out")


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

        names = self.targets
        common: dict[str, Any] = {"task_type": _TASK_TYPES[task]}
        heads: tuple[str, ...] = ()
        if task in ("classifier", "token_classifier"):
            # PEFT alone knows heads by two names, and would leave a fresh pooler or a second layer as it was drawn.
            heads = head_modules(model)
            common["modules_to_save"] = list(heads)
        if names is not None:
            if not isinstance(names, str):
                linear = (name for name, layer in model.named_modules() if _is_linear(layer))
                check_targets(names, (name for name in linear if not _inside(name, heads)))
            common["target_modules"] = names if isinstance(names, str) else list(names)
        set_seed(seed)
        return get_peft_model(model, self.config(common))


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
    if heads := [name for name in names if name in _HEADS]:
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
        leaves = sorted({layer.rsplit(".", 1)[-1] for layer in found} - set(_HEADS))
        raise StrategyError(
            f"target_modules: the model has no linear layer called {', '.join(map(repr, missing))}; "
            f"it has {', '.join(leaves)}."
        )


def _inside(name: str, parts: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _is_linear(layer: Any) -> bool:
    import torch

    return isinstance(layer, torch.nn.Linear)
