"""4-bit NF4 weights of a model in memory: into them, and back out of them.

Both directions are pure functions of the 16- or 32-bit weights, so a model that was merged in memory can be
quantised for the next stage without going through a file, and a finished QLoRA adapter can be merged onto
exactly the numbers it was trained on (QLoRA, arXiv 2305.14314: NF4, double quantisation).
"""

from typing import Any

from .heads import head_modules

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


def quantise_nf4(model: Any, compute_dtype: Any) -> Any:
    """Replace every linear layer but the heads by bitsandbytes' Linear4bit; returns the same model.

    Raises ModelError when no layer was replaced: training would then be plain LoRA under another name.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    from posttrain.errors import ModelError

    layers = layers_to_quantise(model)
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        device = layer.weight.device
        four_bit = Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None,
            compute_dtype=compute_dtype, compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        four_bit.weight = Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        four_bit.weight.module = four_bit  # bitsandbytes reads the layout of the layer from here
        # On some CPUs bitsandbytes computes in bf16 as soon as the model is in eval mode, so that evaluation and
        # training would not see the same weights.
        four_bit.support_avx512bf16_for_cpu = False
        if layer.bias is not None:
            four_bit.bias = layer.bias
        setattr(model.get_submodule(parent), leaf, four_bit.to(device))
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layer that could be quantised to 4 bits.")
    # What PEFT, TRL and the Trainer ask a model that transformers loaded in 4 bits.
    model.is_loaded_in_4bit = model.is_quantized = True
    model.config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )  # fmt: skip
    model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=False)
    return model


def dequantise(model: Any, dtype: Any) -> Any:
    """The same model with plain linear layers that hold what the 4-bit layers compute with."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, Linear4bit):
            continue
        parent, _, leaf = name.rpartition(".")
        plain = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        setattr(model.get_submodule(parent), leaf, plain)
    model.is_loaded_in_4bit = model.is_quantized = False
    del model.config.quantization_config, model.hf_quantizer
    return model
