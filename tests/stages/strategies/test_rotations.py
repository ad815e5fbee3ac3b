"""BOFT against the paper's product of factors, on a machine without PEFT's CUDA extension."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import BOFT, SFT, Pipeline
from posttrain.errors import StrategyError
from posttrain.pipeline import ModelRef
from posttrain.pipeline.adapters import read_adapter
from posttrain.pipeline.boft import _Blocks

Rows = dict[str, list[dict[str, Any]]]


def tiny_model() -> Any:
    return ModelRef.of_base("tiny-random").load_model().requires_grad_(False)


def turned(strategy: BOFT) -> Any:
    model = strategy.wrap(tiny_model(), "policy", 0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_the_rotation_by_hand(factors: int) -> None:
    """s * W times a product of m permuted block-diagonal Cayley rotations (Liu et al., section 4)."""
    model = turned(BOFT(block_size=4, factors=factors, target_modules=["q_proj"]))
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    rotations, scale = layer.boft_R["default"], layer.boft_s["default"]
    assert rotations.shape == (factors, 128 // 4, 4, 4)
    product = torch.eye(128)
    for i in range(factors):
        blocks = []
        for block in rotations[i]:
            skew = (block - block.T) / 2
            blocks.append((torch.eye(4) - skew) @ torch.linalg.inv(torch.eye(4) + skew))
        permutation = layer.boft_P[i]
        product = permutation @ torch.block_diag(*blocks) @ permutation.T @ product
    assert torch.allclose(product @ product.T, torch.eye(128), atol=1e-4)  # a rotation
    pairs = int((product.abs() > 1e-6).sum())
    assert pairs == 128 * 4 * 2 ** (factors - 1)  # each factor doubles what an input reaches
    x = torch.randn(3, 128)
    expected = (x @ product) @ layer.base_layer.weight.T * scale[:, 0]
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_blocks_and_their_gradient_are_torchs_own() -> None:
    blocks = torch.randn(2, 3, 4, 4, requires_grad=True)
    expected = torch.stack([torch.block_diag(*some) for some in blocks])
    assert torch.equal(_Blocks.forward(blocks.detach())[0], expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    assert blocks.grad is not None
    assert torch.equal(_Blocks.backward(weights, blocks)[0], blocks.grad)


def test_the_factors_are_read_back(tmp_path: Path) -> None:
    model = turned(BOFT(block_size=4, factors=3))
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        assert torch.equal(read_adapter(tiny_model(), tmp_path).eval()(ids).logits, model(ids).logits)


def test_blocks_that_do_not_fit_are_refused(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    with pytest.raises(
        StrategyError, match=r"BOFT\(block_size=6, factors=2\): the layer .*q_proj reads 128 values"
    ):
        tiny([SFT(BOFT(block_size=6), data=rows["chat"])]).plan()


def test_the_plan_counts_the_permutations(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    """One matrix of input width squared for each factor and layer: on a large model most of the memory."""
    common: dict[str, Any] = {"data": rows["chat"], "batch_size": 4, "max_length": 128}
    plans = [tiny([SFT(BOFT(block_size=4, factors=f), **common)], name=str(f)).plan()[0] for f in (1, 2)]
    assert plans[0] is not None and plans[1] is not None
    widths = [128] * 6 + [tiny_model().model.layers[0].mlp.down_proj.in_features]
    matrices = 2 * sum(width**2 for width in widths) * 4  # two layers, float32
    assert plans[1].memory_parts["weights"] - plans[0].memory_parts["weights"] == matrices
