"""An adapter by itself, as plain PEFT and vLLM load it: one as it is, several LoRA adapters as one of the ranks' sum."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...pipeline.adapters import BOTTLENECK, WEIGHTS, kind_of, weights_of
from ...pipeline.durable import read_json, write_json
from .source import Source

CONFIG = "adapter_config.json"
_A, _B = ".lora_A.weight", ".lora_B.weight"


def why_no_adapter(source: Source) -> str | None:
    """Why the model cannot leave as an adapter; None where it can."""
    adapters = source.model.adapters
    if not adapters:
        return "it has no adapter, its weights were trained themselves; take --format merged"
    folders = [one.folder for one in adapters]
    config = read_json(folders[-1] / CONFIG)
    if len(adapters) == 1:
        if kind_of(folders[0]) == BOTTLENECK:
            return "PEFT has no bottleneck adapters, so nothing but posttrain could load it; serve the run itself"
        if kind_of(folders[0]) == "BOFT" and config["boft_n_butterfly_factor"] > 1:
            return (
                "plain PEFT makes a BOFT adapter of one factor where its CUDA extension cannot be compiled, and would not "
                "load this one; take --format merged"
            )
        return None
    if source.quantised or any(one.merge_onto != "weights" for one in adapters):
        return (
            f"it stands on {len(adapters) - 1} merged adapters, and one of them was trained on quantised weights, which no "
            "sum of adapters on the plain base can give; take --format merged"
        )
    for place, one in enumerate(adapters):
        if reason := _why_not_summed(read_json(one.folder / CONFIG), last=place == len(adapters) - 1):
            maker = source.maker(one)
            return (
                f"it stands on {len(adapters) - 1} merged adapters, and only plain LoRA adapters add up to one: that of "
                f"{maker.name if maker else one.folder} {reason}; take --format merged"
            )
    if len({read_json(one.folder / CONFIG)["fan_in_fan_out"] for one in adapters}) > 1:
        return "its adapters store their layers in two ways (fan_in_fan_out); take --format merged"
    return None


def _why_not_summed(config: dict[str, Any], last: bool) -> str | None:
    if config["peft_type"] != "LORA":
        return f"is {config['peft_type']}"
    if config.get("use_dora"):
        return "is DoRA"
    if config.get("bias", "none") != "none":
        return "trains biases, too"
    if config.get("modules_to_save") and not last:
        return f"trains {', '.join(config['modules_to_save'])} whole"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return "has a rank or scale of its own in some layers"
    return None


def write_adapter(source: Source, folder: Path) -> None:
    """PEFT's two files, with the name of the base that they need."""
    folders = [one.folder for one in source.model.adapters]
    if len(folders) == 1:
        shutil.copyfile(weights_of(folders[0]), folder / WEIGHTS)
        config = read_json(folders[0] / CONFIG)
    else:
        config = _sum(folders, folder)
    base = source.base
    write_json(
        folder / CONFIG,
        {
            **config,
            "base_model_name_or_path": base.name if base.revision else str(base.folder),
            "revision": base.revision,
            "inference_mode": True,
        },
    )


def _sum(folders: Sequence[Path], target: Path) -> dict[str, Any]:
    """W + s1 B1 A1 + s2 B2 A2 is W + [s1 B1, s2 B2] [A1; A2]: exact, of rank r1 + r2. Returns the config."""
    import torch
    from safetensors.torch import load_file, save_file

    configs = [read_json(one / CONFIG) for one in folders]
    states = [load_file(weights_of(one)) for one in folders]
    ranks = [int(config["r"]) for config in configs]
    layers = sorted({name.removesuffix(_A) for state in states for name in state if name.endswith(_A)})
    summed: dict[str, Any] = {
        name: value for name, value in states[-1].items() if not name.endswith((_A, _B))
    }  # a head
    for layer in layers:
        shape = next((s[layer + _A].shape[1], s[layer + _B].shape[0]) for s in states if layer + _A in s)
        downs, ups = [], []
        for state, config, rank in zip(states, configs, ranks, strict=True):
            scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
            # an adapter without this layer adds nothing to it, and keeps the ranks equal, as vLLM wants them
            downs.append(state.get(layer + _A, torch.zeros(rank, shape[0])).float())
            ups.append(scale * state.get(layer + _B, torch.zeros(shape[1], rank)).float())
        summed[layer + _A] = torch.cat(downs, 0).contiguous()
        summed[layer + _B] = torch.cat(ups, 1).contiguous()
    save_file(summed, target / WEIGHTS, metadata={"format": "pt"})
    total = sum(ranks)
    return {
        **configs[-1],
        "r": total,
        "lora_alpha": total,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "layers_to_transform": None,
        "layers_pattern": None,
        "target_modules": _targets(layers, configs),
    }


def _targets(layers: Sequence[str], configs: Sequence[dict[str, Any]]) -> list[str]:
    """Leaf names where all layers of a name are adapted, else whole names."""
    names = [layer.removeprefix("base_model.model.") for layer in layers]
    if any(config.get("layers_to_transform") is not None for config in configs):
        return names
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def is_plain_lora(folder: Path) -> bool:
    """Whether engines such as vLLM load the adapter: LoRA's A and B, and nothing beside."""
    config = read_json(folder / CONFIG)
    return _why_not_summed(config, last=False) is None
