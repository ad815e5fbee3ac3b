"""A GGUF file of a Llama- or Qwen-type model, written with the official `gguf` package.

Names of fields and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and gguf.tensor_mapping.
# H heads, D width of one, ... any further dimensions
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import ExportError

from .gguf_tokenizer import add_tokenizer

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_BLOCK = 32  # values of one q8_0 block
_OTHER = "give --llama-cpp, whose converter knows more models"


def why_no_gguf(config: dict[str, Any]) -> str | None:
    """Why a model of this config.json cannot be written here; None where it can."""
    kind, rope = config.get("model_type"), rope_of(config)
    if kind not in ARCHITECTURES:
        return f"GGUF is written here for {', '.join(ARCHITECTURES)}, and it is of type {kind}; {_OTHER}"
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        return f"its positions are scaled as {rope['rope_type']!r}, which is not written here; {_OTHER}"
    if config.get("use_sliding_window"):
        return f"it attends in a sliding window, which is not written here; {_OTHER}"
    return None


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """Of a config.json, older ones too."""
    scaling = config.get("rope_scaling") or {}
    old = {"rope_theta": config.get("rope_theta", 10000.0), **scaling}
    if "type" in old:
        old.setdefault("rope_type", old.pop("type"))
    return dict(config.get("rope_parameters") or old)


def write_gguf(model: Any, tokenizer: Any, path: Path, dtype: str, name: str, stops: Sequence[int]) -> None:
    """The file. The model's parameters become what the file holds of them: rounded, or quantised and back."""
    import gguf
    import torch

    config = model.config
    kind = config.model_type
    arch = next(one for one, called in gguf.MODEL_ARCH_NAMES.items() if called == kind)
    writer = gguf.GGUFWriter(path, kind)
    _add_settings(writer, config, dtype, name)
    rows = model.get_input_embeddings().weight.shape[0]
    writer.add_vocab_size(rows)
    add_tokenizer(writer, tokenizer, rows, stops)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for factors in _rope_factors(config):
        writer.add_tensor("rope_freqs.weight", factors)
    for own, parameter in model.named_parameters():  # a tied head is named once, as the embedding
        stem, _, leaf = own.rpartition(".")
        called = names.get_name(stem)
        if called is None:
            raise ExportError(f"gguf has no name for {own}, so the model cannot be written; {_OTHER}.")
        values = parameter.detach().numpy()
        stored = _type_of(values, dtype, gguf)
        data = gguf.quants.quantize(values, stored)
        parameter.data = torch.from_numpy(gguf.quants.dequantize(data, stored).astype("float32")).reshape(
            parameter.shape
        )
        if kind == "llama" and called.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if called.endswith("q") else config.num_key_value_heads
            data = paired(data, heads)
        writer.add_tensor(f"{called}.{leaf}", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def paired(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """(H D, ...) with the rows of a head in the order in which llama.cpp rotates them: neighbours, where transformers
    rotates row i with row i + D / 2. Rows may be quantised: blocks lie inside of rows."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def _type_of(values: Any, dtype: str, gguf: Any) -> Any:
    """Norms and biases stay float32; rows that are no whole blocks are float16."""
    types = gguf.GGMLQuantizationType
    if values.ndim == 1 or dtype == "f32":
        return types.F32
    return types.Q8_0 if dtype == "q8_0" and values.shape[-1] % _BLOCK == 0 else types.F16


def _add_settings(writer: Any, config: Any, dtype: str, name: str) -> None:
    import gguf

    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    files = gguf.LlamaFileType
    writer.add_file_type({"f32": files.ALL_F32, "f16": files.MOSTLY_F16, "q8_0": files.MOSTLY_Q8_0}[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope_of(config.to_dict())["rope_theta"])


def _rope_factors(config: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Llama 3.1's scaling as what each frequency is divided by, (D / 2,); none without scaling."""
    import numpy as np

    rope = rope_of(config.to_dict())
    if rope.get("rope_type", "default") != "llama3":
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    low, high, old = (
        rope["low_freq_factor"],
        rope["high_freq_factor"],
        rope["original_max_position_embeddings"],
    )
    lengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    smooth = np.clip((old / lengths - low) / (high - low), 0.0, 1.0)
    # frequency * ((1 - smooth) / factor + smooth), between the long waves (smooth 0) and the short ones (1)
    yield (1.0 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
