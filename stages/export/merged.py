"""A whole model in safetensors, as transformers, vLLM and SGLang load it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...pipeline.base_models import TOKENIZER_FILES
from ...pipeline.durable import write_json


def write_merged(model: Any, folder: Path, dtype: str, shard_size: str) -> None:
    """Weights, config and generation config. The model's parameters are rounded to `dtype` in place, and float32 again."""
    import torch

    model.config._name_or_path = ""  # a path of this machine
    with _rounded(model, getattr(torch, {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype])):
        model.save_pretrained(folder, max_shard_size=shard_size)


@contextmanager
def _rounded(model: Any, dtype: Any) -> Iterator[None]:
    """Parameters in `dtype` inside, and their rounded values behind. Buffers stay: a rotary table must not be rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    yield
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


def write_tokenizer(tokenizer: Any, base_folder: Path, folder: Path) -> None:
    """The base's own files, byte for byte, so that older versions of libraries read them; only the pad token is set."""
    from transformers import AutoTokenizer

    for name in (*TOKENIZER_FILES, "added_tokens.json"):
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)
    if (
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).pad_token
        != tokenizer.pad_token
    ):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                held = json.loads((folder / name).read_text("utf-8"))
                write_json(folder / name, {**held, "pad_token": str(tokenizer.pad_token)})
