"""Shapes of common model sizes, for planning where no model is at hand: the published configs, weights not needed."""

from collections.abc import Mapping
from typing import Any

_LLAMA_2, _LLAMA_3, _QWEN = 32_000, 128_256, 152_064  # vocabularies


def _shape(
    hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int, vocabulary: int,
    tied: bool = False,
) -> Mapping[str, Any]:  # fmt: skip
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, "max_position_embeddings": 32_768,
    }  # fmt: skip


# As LlamaConfig's arguments; of each size the model that is most often tuned.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1B": _shape(2048, 8192, 16, 32, 8, _LLAMA_3, tied=True),  # Llama 3.2
    "3B": _shape(3072, 8192, 28, 24, 8, _LLAMA_3, tied=True),  # Llama 3.2
    "7B": _shape(4096, 11008, 32, 32, 32, _LLAMA_2),  # Llama 2
    "8B": _shape(4096, 14336, 32, 32, 8, _LLAMA_3),  # Llama 3.1
    "13B": _shape(5120, 13824, 40, 40, 40, _LLAMA_2),  # Llama 2
    "14B": _shape(5120, 13824, 48, 40, 8, _QWEN),  # Qwen 2.5
    "30B": _shape(6656, 17920, 60, 52, 52, _LLAMA_2),  # LLaMA
    "32B": _shape(5120, 27648, 64, 40, 8, _QWEN),  # Qwen 2.5
    "70B": _shape(8192, 28672, 80, 64, 8, _LLAMA_3),  # Llama 3.1
}
