"""LoHa's and LoKr's updates against their formulas."""

from typing import Any

import pytest
import torch

from posttrain import LoHa, LoKr
from posttrain.pipeline import ModelRef


def moved(strategy: Any) -> Any:
    """The adapted layer down_proj, with an update."""
    model = ModelRef.of_base("tiny-random").load_model().requires_grad_(False)
    model = strategy.wrap(model, "policy", 0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.get_base_model().model.layers[0].mlp.down_proj


@torch.no_grad()
def check(layer: Any, update: torch.Tensor) -> None:
    x = torch.randn(3, layer.base_layer.in_features)
    assert float(update.abs().max()) > 1e-3
    assert torch.allclose(layer(x), x @ (layer.base_layer.weight + update).T, atol=1e-4)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2, 0.5)])
def test_loha_is_a_product_of_two_low_ranks(alpha: int | None, scale: float) -> None:
    layer = moved(LoHa(r=4, alpha=alpha))
    one, other = (getattr(layer, f"hada_{w}_a")["default"] @ getattr(layer, f"hada_{w}_b")["default"]
                  for w in ("w1", "w2"))  # fmt: skip
    assert torch.linalg.matrix_rank(one * other) == 16  # r squared
    check(layer, scale * one * other)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2, 0.5)])
def test_lokr_is_a_kronecker_product(alpha: int | None, scale: float) -> None:
    layer = moved(LoKr(r=4, alpha=alpha, factor=8))
    small = layer.lokr_w1["default"]
    large = layer.lokr_w2_a["default"] @ layer.lokr_w2_b["default"]
    assert small.shape == (8, 8)
    check(layer, scale * torch.kron(small, large))
