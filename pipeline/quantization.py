"""4- and 8-bit weights of a model in memory: into them, and back out of them.

Both directions are pure functions of the 16- or 32-bit weights, so a model that was merged in memory can be
quantised for the next stage without going through a file, and a finished QLoRA adapter can be merged onto
exactly the numbers it was trained on (QLoRA, arXiv 2305.14314: NF4, double quantisation; LLM.int8, arXiv 2208.07339).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from .heads import head_modules

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["nf4", "int8"]
_KEPT = ("lm_head", "embed_out")  # heads stay in full precision, as in the paper


def layers_to_quantise(model: Any) -> list[tuple[str, Any]]:
    """(name, layer) of every linear layer but heads, and what the architecture leaves out: T5's `wo`, to whose type
    it casts what goes in."""
    import torch

    heads = head_modules(model) if hasattr(model, model.base_model_prefix) else ()
    stays = (*_KEPT, *(getattr(model, "_keep_in_fp32_modules", None) or ()), *heads)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is torch.nn.Linear and not any(f".{one}." in f".{name}." for one in stays)
    ]


def quantise(
    model: Any, compute_dtype: Any, format: Format, seen: Callable[[Any, Tensor], None] | None = None
) -> Any:
    """Replace every linear layer but the heads by bitsandbytes' of the format; returns the same model.

    seen: called with each new layer and the weight that it was made of.
    Raises ModelError when no layer was replaced: training would then be plain LoRA under another name, and when the
    model is quantised already.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    from posttrain.errors import ModelError

    if (already := getattr(model.config, "quantization_config", None)) is not None:
        found = already.get("quant_method") if isinstance(already, dict) else already.quant_method
        raise ModelError(
            f"The model is quantised already ({getattr(found, 'value', found)}), and QLoRA quantises one in 16 or 32 "
            "bits; take the unquantised model."
        )
    layers = layers_to_quantise(model)
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        made = (_nf4 if format == "nf4" else _int8)(layer, compute_dtype).to(layer.weight.device)
        setattr(model.get_submodule(parent), leaf, made)
        if seen is not None:
            seen(made, layer.weight.data)
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layer that could be quantised.")
    # What PEFT, TRL and the Trainer ask a model that transformers loaded quantised.
    model.is_quantized = True
    setattr(model, _FLAG[format], True)
    model.config.quantization_config = _config(format, compute_dtype)
    model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=False)
    return model


_FLAG = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}


def _config(format: Format, compute_dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if format == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )  # fmt: skip


def _nf4(layer: Any, compute_dtype: Any) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None,
        compute_dtype=compute_dtype, compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    made.weight.module = made  # bitsandbytes reads the layout of the layer from here
    # On some CPUs bitsandbytes computes in bf16 as soon as the model is in eval mode, so that evaluation and
    # training would not see the same weights.
    made.support_avx512bf16_for_cpu = False
    if layer.bias is not None:
        made.bias = layer.bias
    return made


def _int8(layer: Any, compute_dtype: Any) -> Any:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    made = Linear8bitLt(
        layer.in_features, layer.out_features, bias=layer.bias is not None, has_fp16_weights=False,
        threshold=6.0, device="meta",
    )  # fmt: skip
    made.weight = Int8Params(layer.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    if layer.bias is not None:
        made.bias = layer.bias
    return made


def dequantise(model: Any, dtype: Any) -> Any:
    """The same model with plain linear layers that hold what the quantised layers compute with."""
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from peft.utils.integrations import dequantize_module_weight

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, (Linear4bit, Linear8bitLt)):
            continue
        parent, _, leaf = name.rpartition(".")
        plain = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        weight = dequantize_module_weight(layer).to(dtype)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        setattr(model.get_submodule(parent), leaf, plain)
    for name in _FLAG.values():
        if hasattr(model, name):
            setattr(model, name, False)
    model.is_quantized = False
    del model.config.quantization_config, model.hf_quantizer
    return model
