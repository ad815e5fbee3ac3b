"""Adapters on disk: reading one onto its base, and merging it where its kind can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.errors import ModelError

from .durable import read_json
from .safetensors_header import fault_of

WEIGHTS = "adapter_model.safetensors"
BOTTLENECK = "POSTTRAIN_BOTTLENECK"  # our own kind; the others are PEFT's
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
UNMERGEABLE = (BOTTLENECK, *PROMPTS)  # no weights of the base could do what they do


def kind_of(folder: Path) -> str:
    """PEFT's name for the kind of a saved adapter. Raises ModelError where its config names none."""
    config = read_json(folder / "adapter_config.json")
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ModelError(
            f"{folder / 'adapter_config.json'} names no kind of adapter (peft_type); save it anew."
        )
    return kind


def weights_of(folder: Path) -> Path:
    """The file with a saved adapter's weights. Raises ModelError where it is missing, or no safetensors.

    PEFT would take an `adapter_model.bin` instead, which is a pickle.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [one.name for one in sorted(folder.glob("adapter_model.*")) if one.suffix != ".safetensors"]
        raise ModelError(
            f"The adapter {folder} has no {WEIGHTS}"
            + (
                f" and {pickles[0]} is a pickle, which can run code; convert it to safetensors first."
                if pickles
                else "."
            )
        )
    if fault := fault_of(path):
        raise ModelError(f"{path} {fault}")
    return path


def read_config(folder: Path) -> Any:
    """The PEFT config of a saved adapter, with PEFT made ready for its kind."""
    from peft import PeftConfig

    kind = kind_of(folder)
    if kind == BOTTLENECK:
        from .bottleneck import register

        register()
    elif kind == "BOFT":
        from .boft import use_torch

        use_torch()
    return PeftConfig.from_pretrained(folder)


def read_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """The saved adapter, live under the name "default" on its base; frozen unless `trainable`."""
    from peft import PeftModel

    weights_of(folder)
    config = read_config(folder)
    if kind_of(folder) in PROMPTS:
        from .prompted import read_prompts

        return read_prompts(model, config, folder, trainable=trainable)
    return PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def merge(model: Any) -> Any:
    """The PEFT model's base with its adapter merged in, free of any trace of PEFT."""
    from peft.utils import ModulesToSaveWrapper

    inner = model.get_base_model()
    for name, module in list(inner.named_modules()):
        # PEFT unloads single layers alone, where a head may be several, and LN tuning unloads none.
        if isinstance(module, ModulesToSaveWrapper):
            inner.set_submodule(name, module.modules_to_save["default"])
    merged = model.merge_and_unload()
    if hasattr(merged, "peft_config"):  # left behind, PEFT would call the next adapter a second one
        del merged.peft_config
    return merged
