"""Decoding with the adapters inside the weights: what they add is computed once instead of at every token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .machine import this_machine

MERGED_FROM = 16  # tokens: merging costs as much as about five decoding steps save


@contextlib.contextmanager
def merged(model: Any) -> Iterator[None]:
    """The active adapters inside the weights, which are put back bit for bit: PEFT's own way back subtracts, and rounds.

    Needs a second copy of the adapted layers meanwhile, when no activations are kept.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    bases = [layer.get_base_layer() for layer in layers]
    kept = [base.weight.data for base in bases]
    for base, weight in zip(bases, kept, strict=True):
        base.weight.data = weight.clone()
    try:
        model.merge_adapter(list(model.active_adapters))
        yield
    finally:
        for layer, base, weight in zip(layers, bases, kept, strict=True):
            if layer.get_base_layer() is not base:  # LN tuning merges by changing places
                layer.unmerge()
            base.weight.data = weight
            layer.merged_adapters.clear()


@contextlib.contextmanager
def merged_where_it_pays(model: Any, new_tokens: int) -> Iterator[None]:
    """`merged` around a long decode on a CPU; nothing where adapters are off, cannot be merged, or a weight is quantised.

    The second copy of the weights is in no plan: it must fit into what a plan leaves free, and is not made on a GPU.
    """
    with merged(model) if new_tokens >= MERGED_FROM and _pays(model) else contextlib.nullcontext():
        yield


def _pays(model: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    machine = this_machine()
    return (
        bool(layers)
        and model.device.type == "cpu"
        and _bytes_of(layers) <= machine.memory_bytes - machine.usable_bytes
        and all(
            type(layer).merge is not BaseTunerLayer.merge
            and not layer.disable_adapters
            and not layer.merged
            and _is_plain(layer.get_base_layer())
            for layer in layers
        )
    )


def _bytes_of(layers: list[Any]) -> int:
    weights = (getattr(layer.get_base_layer(), "weight", None) for layer in layers)
    return sum(weight.nbytes for weight in weights if weight is not None)


def _is_plain(layer: Any) -> bool:
    """Whether it has a weight that can be added to."""
    weight = getattr(layer, "weight", None)
    return weight is not None and bool(weight.is_floating_point())
