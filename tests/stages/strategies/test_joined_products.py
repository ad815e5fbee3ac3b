"""LoRA layers as one step of autograd against PEFT's own, and what is left to PEFT."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from posttrain.stages.strategies import joined_products
from posttrain.stages.strategies.joined_products import join_products


class Two(nn.Module):
    """A layer with a bias and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20), nn.Linear(20, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return found


def adapted(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["first", "second"], **settings)
    model = get_peft_model(Two(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with a word for each layer that computes its products in one."""
    found, real = list[str](), joined_products._Joined.apply
    monkeypatch.setattr(
        joined_products._Joined, "apply", lambda *given: found.append("joined") or real(*given)
    )
    return found


def two_at_once(model: Any) -> None:
    """Another one with another rank and scale on the first layer alone, and both learn."""
    model.add_adapter(
        "other", LoraConfig(r=2, lora_alpha=6, target_modules=["first"], init_lora_weights=False)
    )
    model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 5, 12), (0, 12)])
@pytest.mark.parametrize(
    ("settings", "change", "learning"),
    [
        pytest.param({}, lambda _: None, 4, id="one"),
        pytest.param({"use_rslora": True}, lambda _: None, 4, id="one, scaled otherwise"),
        pytest.param({}, two_at_once, 6, id="two at once"),
    ],
)
def test_outputs_and_gradients_are_pefts(
    shape: tuple[int, ...],
    settings: dict[str, Any],
    change: Callable[[Any], Any],
    learning: int,
    joined: list[str],
) -> None:
    theirs = adapted(**settings)
    change(theirs)
    ours = join_products(copy.deepcopy(theirs))
    x = torch.randn(shape)
    found = []
    for model in (theirs, ours):
        own = x.clone().requires_grad_()
        out = model(own)
        out.pow(2).sum().backward()
        found.append([out, own.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert joined == ["joined"] * 2
    assert len(found[0]) == 2 + learning
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-5)


def test_gradients_are_those_of_small_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    x, base, bias, down, up = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((4, 6), (5, 6), (5,), (2, 6), (5, 2))
    )  # fmt: skip
    for each in (x, down, up):
        each.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, down, up: joined_products._Joined.apply(x, base, bias, down, up, 1.5), (x, down, up)
    )


def test_only_what_learns_has_a_gradient() -> None:
    model = join_products(adapted())
    first, second = model.base_model.model.first, model.base_model.model.second
    second.lora_A["default"].requires_grad_(False)
    model(torch.randn(3, 12)).sum().backward()
    assert second.lora_A["default"].weight.grad is None and second.lora_B["default"].weight.grad is not None
    assert first.base_layer.weight.grad is None and first.lora_A["default"].weight.grad is not None


def one_of_two_drops(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"], lora_dropout=0.5))
    model.base_model.set_adapter(["default", "other"])
    model.train()


def unfrozen(model: Any) -> None:
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.base_layer.weight.requires_grad_()


def hooked(model: Any) -> None:
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.base_layer.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        pytest.param({"lora_dropout": 0.5}, lambda model: model.train(), id="dropout"),
        pytest.param({"use_dora": True}, lambda _: None, id="DoRA"),
        pytest.param({}, one_of_two_drops, id="dropout in one of two"),
        pytest.param({}, unfrozen, id="a base that is trained, too"),
        pytest.param({}, hooked, id="someone looks at the base's output"),
        pytest.param({}, lambda model: model.to(torch.bfloat16), id="16 bits"),
        pytest.param({}, lambda model: model.merge_adapter(), id="merged"),
        pytest.param({}, lambda model: model.base_model.disable_adapter_layers(), id="without its adapter"),
    ],
)  # fmt: skip
def test_the_rest_is_pefts(settings: dict[str, Any], change: Callable[[Any], Any], joined: list[str]) -> None:
    model = adapted(**settings)
    change(model)
    x = torch.randn(4, 12, dtype=next(model.parameters()).dtype)
    torch.manual_seed(1)
    before = model(x)
    torch.manual_seed(1)
    assert torch.equal(join_products(model)(x), before)
    assert not joined


def test_an_adapter_that_comes_later_is_seen(joined: list[str]) -> None:
    model = join_products(adapted())
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
    model.set_adapter("other")
    x = torch.randn(4, 12)
    found = model(x)
    assert joined == ["joined"]  # the second layer has no such adapter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined_products, "_all_plain", lambda *_: False)
        torch.testing.assert_close(found, model(x))


def test_a_copy_computes_with_its_own_adapter() -> None:
    model = join_products(adapted())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not other(torch.randn(2, 12)).any() and model(torch.randn(2, 12)).any()


def test_sharded_layers_stay_pefts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    model = join_products(adapted())
    assert all("forward" not in vars(module) for module in model.modules() if type(module) is Linear)
