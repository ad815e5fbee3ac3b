"""A LoRA layer as one step of autograd, on a CPU: x W^T + s (x A^T) B^T without the arrays between its terms.

PEFT makes both terms, the scaled second one and their sum, each as large as the layer's output, for a second active adapter
another three, and autograd makes as many for the gradient. On a CPU that is time, since these are read and written and
hardly computed with, and it is memory, since their places lie free between what is kept. Products that add to what is there
need none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...pipeline import Ranks


def join_products(model: Any) -> Any:
    """`model`, whose LoRA layers compute this way wherever they can, which they see anew at each call.

    They can with plain adapters in float32 on a frozen linear layer, outside of autocast. FSDP's layers stay PEFT's.
    """
    if Ranks.of_environment().parts == 1:
        for module in model.modules():
            if type(module) is Linear and type(module.base_layer) is nn.Linear:
                module.forward = MethodType(_forward, module)
    return model


def _forward(layer: Any, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if args or settings or not names or not _all_plain(layer, names, x):
        found: Tensor = Linear.forward(layer, x, *args, **settings)
        return found
    downs = [layer.lora_A[name].weight for name in names]
    ups = [layer.lora_B[name].weight for name in names]
    scales = [layer.scaling[name] for name in names]
    if len(names) > 1:  # several adapters are one of the sum of their ranks
        ups = [torch.cat([scale * up for scale, up in zip(scales, ups, strict=True)], dim=1)]
        downs, scales = [torch.cat(downs)], [1.0]
    joined: Tensor = _Joined.apply(x, layer.base_layer.weight, layer.base_layer.bias, *downs, *ups, *scales)
    return joined


def _all_plain(layer: Any, names: Sequence[str], x: Tensor) -> bool:
    """Whether the products of all of the adapters can be joined to the base's."""
    base = layer.base_layer
    parts = [base, *(module[name] for name in names for module in (layer.lora_A, layer.lora_B))]
    changed = layer.disable_adapters or layer.merged or any(name in layer.lora_variant for name in names)
    drops = any(
        module.training for name in names if not isinstance(module := layer.lora_dropout[name], nn.Identity)
    )
    hooked = any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts)
    wide = {x.dtype, *(part.weight.dtype for part in parts)} != {torch.float32}
    biased = any(layer.lora_bias[name] for name in names) or (
        base.bias is not None and base.bias.requires_grad
    )
    elsewhere = x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    return not (changed or drops or hooked or wide or biased or elsewhere or base.weight.requires_grad)


class _Joined(torch.autograd.Function):
    # N tokens, I and O features of the input and output, R rank

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scale: float,
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ down_RI.t()
        out_NO = nn.functional.linear(x_NI, base_OI, bias_O).addmm_(low_NR, up_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, base_OI, down_RI, up_OR, low_NR)
        ctx.scale = scale
        return out_NO.view(*x.shape[:-1], len(base_OI))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, base_OI, down_RI, up_OR, low_NR = ctx.saved_tensors
        needs_x, _, _, needs_down, needs_up, _ = ctx.needs_input_grad
        grad_NO = grad.reshape(-1, len(base_OI))
        of_low_NR = (grad_NO @ up_OR).mul_(ctx.scale)
        of_x = None
        if needs_x:
            of_x = (grad_NO @ base_OI).addmm_(of_low_NR, down_RI).view(*grad.shape[:-1], x_NI.shape[1])
        of_down = of_low_NR.t() @ x_NI if needs_down else None
        of_up = (grad_NO.t() @ low_NR).mul_(ctx.scale) if needs_up else None
        return of_x, None, None, of_down, of_up, None
