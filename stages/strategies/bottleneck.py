"""Adapter: a small network behind the attention and the feed-forward block of every layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from posttrain.errors import StrategyError

from ...pipeline.settings import check_choice, check_number, refuse
from .strategy import Capabilities
from .tuner import HEADS, Tuner, read_targets

Place = Literal["attention", "feedforward"]
_PLACES = ("attention", "feedforward")
_ACTIVATIONS = ("relu", "gelu", "silu")
# The linear layer that leads out of each block, by the end of its name: where "x" of the adapter comes from.
_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "attention": (
        "self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj", "attn.out_proj", "attention.dense",
        "attention.output.dense", "self_attention.dense", "SelfAttention.o", "EncDecAttention.o",
        "encoder_attn.out_proj",
    ),
    "feedforward": (
        "mlp.down_proj", "mlp.c_proj", "mlp.fc2", "mlp.fc_out", "mlp.dense_4h_to_h", "output.dense",
        "DenseReluDense.wo", "layers.*.fc2",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter(Tuner):
    """x + W_up act(W_down x) behind the blocks of each layer, before their residual is added (Houlsby et al., 1902.00751).

    bottleneck: values between W_down and W_up, usually 8 to 256; 16 are about 1 % of a small model's parameters.
    after: ("attention", "feedforward") is Houlsby's; "feedforward" alone is the cheaper one of Pfeiffer et al.
    (arXiv 2005.00247). activation: "relu", "gelu" or "silu". dropout: between the two matrices, 0 to 0.1.
    layers: the numbers of the layers that get one, from 0; None is all.
    target_modules: leaf names of the layers to stand behind, instead of `after`, for models whose blocks have other
    names. Starts as the model itself: W_up is zero. Suits every stage; made for many tasks on one base, switched at
    run time. It bends values instead of adding to weights, so it never merges: it costs time at every later use, and
    another strategy cannot follow. Usual learning rates: 1e-4 to 1e-3.
    """

    bottleneck: int = 64
    after: Place | Sequence[Place] = ("attention", "feedforward")
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: float = 0.0
    layers: Sequence[int] | None = None
    target_modules: Sequence[str] | None = None

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=False, continuable=True, identity_at_start=True
    )
    learning_rate_factor: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        for name in ("bottleneck", "dropout"):
            if getattr(self, name) is None:
                refuse("Adapter", name, None, "a number")
        check_number("Adapter", "bottleneck", self.bottleneck, least=1, whole=True)
        check_number("Adapter", "dropout", self.dropout, least=0.0, below=1.0)
        check_choice("Adapter", "activation", self.activation, _ACTIVATIONS)
        after = (self.after,) if isinstance(self.after, str) else self.after
        if not isinstance(after, Sequence) or not after or not set(after) <= set(_PLACES):
            refuse("Adapter", "after", self.after, "'attention', 'feedforward', or a list of both")
        object.__setattr__(self, "after", tuple(place for place in _PLACES if place in after))
        if self.layers is not None:
            object.__setattr__(self, "layers", _read_layers(self.layers))
        if self.target_modules is not None:
            if isinstance(self.target_modules, str):
                refuse(
                    "Adapter", "target_modules", self.target_modules, "a list of layer names, as ['o_proj']"
                )
            object.__setattr__(self, "target_modules", read_targets("Adapter", self.target_modules))

    def find_targets(self, model: Any) -> Sequence[str]:
        names = [
            name
            for name, layer in model.named_modules()
            if _is_linear(layer) and name.rsplit(".", 1)[-1] not in HEADS
        ]
        if self.target_modules is not None:
            found = [name for name in names if name.rsplit(".", 1)[-1] in self.target_modules]
        else:
            found = [name for name in names for place in self.after if _leads_out_of(place, name)]
        missing = [place for place in self.after if not any(_leads_out_of(place, name) for name in found)]
        if not found or (missing and self.target_modules is None):
            ends = sorted({".".join(name.split(".")[-2:]) for name in names})
            wanted = (
                f"target_modules={list(self.target_modules)}"
                if self.target_modules
                else f"after={missing[0]!r}"
            )
            raise StrategyError(
                f"Adapter({wanted}): {type(model).__name__} has no such layer; it has {', '.join(ends)}. Name those that "
                "lead out of its blocks with target_modules=."
            )
        return found if self.layers is None else self._of_layers(found)

    def _of_layers(self, names: Sequence[str]) -> Sequence[str]:
        numbers = {name: int(number[1]) for name in names if (number := re.search(r"\.(\d+)\.", name))}
        missing = sorted(set(self.layers or ()) - set(numbers.values()))
        if missing:
            raise StrategyError(
                f"Adapter(layers={list(self.layers or ())}): the model has the layers 0 to {max(numbers.values())}, so "
                f"there is no layer {missing[0]}."
            )
        return [name for name in names if numbers.get(name) in (self.layers or ())]

    def config(self, common: Mapping[str, Any]) -> Any:
        from ...pipeline.bottleneck import BottleneckConfig, register

        register()
        return BottleneckConfig(
            bottleneck=self.bottleneck, activation=self.activation, dropout=self.dropout, **common
        )


def _read_layers(layers: Sequence[int]) -> tuple[int, ...]:
    whole = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
    if not whole or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in layers):
        refuse("Adapter", "layers", layers, "a list of layer numbers from 0, as [10, 11]")
    return tuple(sorted(set(layers)))


def _leads_out_of(place: str, name: str) -> bool:
    if place == "feedforward" and name.endswith("attention.output.dense"):  # BERT has both
        return False
    endings = "|".join(re.escape(end).replace(r"\*", r"\d+") for end in _OUTPUTS[place])
    return re.search(rf"(^|\.)({endings})$", name) is not None


def _is_linear(layer: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, (torch.nn.Linear, Conv1D))
