"""Where LoRA's A and B start when they do not start from noise and zero, and what follows for what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import StrategyError

from ...pipeline.packed_rows import padded
from .strategy import StartRows, StepHooks

_EXACT_SVD = 2048  # of a matrix up to this wide seconds; of a wider one minutes, where 16 power iterations do
_TOKENS = 1024
_ERROR = "_posttrain_loftq"


def start_layers(init: str, model: Any, rows: StartRows | None) -> None:
    """Set A and B of every LoRA layer of the adapter "default". Raises StrategyError for a rank that is too high."""
    found = dict(lora_layers(model))
    widest = {"lora_ga": 2}.get(init, 1)
    for name, layer in found.items():
        room = min(layer.in_features, layer.out_features)
        if widest * layer.r["default"] > room:
            raise StrategyError(
                f"LoRA(init={init!r}, r={layer.r['default']}): the layer {name.removeprefix('base_model.model.')} is "
                f"{room} wide, which allows r={room // widest} at most."
            )
    if init in ("lora_ga", "eva"):
        assert rows is not None, f"{init} is refused in stages without answers"
        (_along_gradients if init == "lora_ga" else _along_inputs)(model, found, rows)
        return
    for layer in found.values():
        if init == "olora":
            layer.olora_init("default")
        elif init == "pissa":
            exact = min(layer.in_features, layer.out_features) <= _EXACT_SVD
            layer.pissa_init("default", "pissa" if exact else "pissa_niter_16")
        else:
            _make_up_for_error(layer)


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, layer) of all layers with a LoRA "default"."""
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and "default" in layer.lora_A:
            yield name, layer


def _along_gradients(model: Any, layers: Mapping[str, Any], rows: StartRows) -> None:
    """LoRA-GA: the gradient of W, summed over the rows on the CPU, and PEFT's start from it."""
    from peft import LoraGAConfig

    gradients: dict[str, Tensor] = {}
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = {name: layer.get_base_layer().weight for name, layer in layers.items()}

    def take(name: str) -> Callable[[Any], None]:
        def hook(
            weight: Any,
        ) -> None:  # away from the GPU as soon as it is there: a model's worth of gradients
            gradients[name] = gradients.get(name, 0) + weight.grad.float().cpu()
            weight.grad = None

        return hook

    handles = []
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for name, weight in weights.items():
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(take(name)))
        for batch in rows.batches():
            rows.loss(model, batch).backward()
    finally:
        for handle in handles:
            handle.remove()
        for weight in weights.values():
            weight.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
    for name, layer in layers.items():
        base = layer.get_base_layer()
        base._peft_loraga_grad = gradients.pop(name).to(base.weight.device)
        with torch.no_grad():
            layer.lora_ga_init("default", LoraGAConfig())


def _along_inputs(model: Any, layers: Mapping[str, Any], rows: StartRows) -> None:
    """EVA with equal ranks: A's rows are the main directions (SVD) of a layer's inputs at trained tokens, B is zero.

    Of all rows together up to 1,024 tokens, evenly spread. PEFT's incremental SVD goes round the rows until it no
    longer moves, which never happens where batches have fewer tokens than ranks.
    """
    batches = list(rows.batches())
    masks = [
        (b["labels"] != -100 if "labels" in b else b["attention_mask"] == 1).reshape(-1) for b in batches
    ]
    places = torch.cat(masks).nonzero()[:, 0]
    places = places[torch.linspace(0, len(places) - 1, min(len(places), _TOKENS)).round().long()]
    starts = torch.tensor([0, *(len(mask) for mask in masks)]).cumsum(0)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    owner: dict[str, str] = {}  # of the same input, as queries, keys and values have it, one copy

    def take(name: str, chosen: Tensor, last: dict[str, Any]) -> Callable[..., None]:
        def hook(_: Any, given: Any, __: Any) -> None:
            if last.get("input") is not given[0]:
                last.update(input=given[0], owner=name)
            owner[name] = last["owner"]
            if owner[name] == name:
                flat = given[0].detach().flatten(0, -2)
                seen[name].append(flat[chosen.to(flat.device)].float().cpu())

        return hook

    for batch, start, end in zip(batches, starts, starts[1:], strict=False):
        inside = places[(places >= start) & (places < end)] - start
        last: dict[str, Any] = {}
        handles = [layer.register_forward_hook(take(name, inside, last)) for name, layer in layers.items()]
        try:
            with torch.no_grad(), padded():
                model(input_ids=batch["input_ids"].to(model.device),
                      attention_mask=batch["attention_mask"].to(model.device), use_cache=False)  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
    directions: dict[str, Tensor] = {}
    for name, layer in layers.items():
        rank = layer.r["default"]
        if len(places) < rank:
            raise StrategyError(
                f"LoRA(init='eva', r={rank}): the rows have {len(places)} trained tokens, and so many directions ask for "
                f"{rank} at least; give more rows or a lower r."
            )
        if owner[name] not in directions:
            directions[owner[name]] = torch.linalg.svd(torch.cat(seen.pop(owner[name])), full_matrices=False)[
                2
            ]
        weight = layer.lora_A["default"].weight
        weight.data.copy_(directions[owner[name]][:rank])


def keep_error(rank: int) -> Callable[[Any, Tensor], None]:
    """For the quantiser: called with each 4-bit layer and its weight, keeps the best rank-r part of the error."""

    def seen(layer: Any, weight: Tensor) -> None:
        from bitsandbytes.functional import dequantize_4bit

        error = weight.float() - dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        with torch.random.fork_rng(devices=[error.device] if error.is_cuda else []):
            torch.manual_seed(0)  # the model's weights alone decide, so that a restart finds the same
            u, s, v = torch.svd_lowrank(error, q=min(2 * rank, *error.shape), niter=8)
        root = s[:rank].sqrt()
        setattr(layer, _ERROR, (root[:, None] * v[:, :rank].T, u[:, :rank] * root))

    return seen


def _make_up_for_error(layer: Any) -> None:
    """LoftQ's first iteration: A and B whose product is nearest to W minus its 4-bit form."""
    base = layer.get_base_layer()
    a, b = vars(base).pop(_ERROR)
    scaling = layer.scaling["default"]
    for target, value in ((layer.lora_A, a), (layer.lora_B, b / scaling)):
        weight = target["default"].weight
        weight.data = value.to(weight.dtype).contiguous()


class Residual(StepHooks):
    """For a start that was taken out of the base: what of it a checkpoint needs, and the adapter that is saved.

    With W' = W - s B0 A0 under the adapter, W' + s B A = W + s [B, -B0] [A; A0]: a LoRA of rank 2 r on the unchanged
    W. So what is handed over stands on the same base as every other adapter.
    """

    def __init__(self, model: Any) -> None:
        self._layers = dict(lora_layers(model))
        self._start = {
            f"{name}.{side}": getattr(layer, side)["default"].weight.detach().cpu().clone()
            for name, layer in self._layers.items()
            for side in ("lora_A", "lora_B")
        }

    def state(self) -> Mapping[str, Tensor]:
        return self._start

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The start is drawn anew when a stage goes on; on another machine it may differ in the last bit."""
        for name, layer in self._layers.items():
            sides = [f"{name}.lora_B", f"{name}.lora_A"]
            if all(torch.equal(self._start[side], state[side]) for side in sides):
                continue
            weight = layer.get_base_layer().weight
            (own_b, own_a), (b, a) = ([of[side].float() for side in sides] for of in (self._start, state))
            moved = layer.scaling["default"] * (own_b @ own_a - b @ a)
            weight.data += (moved.T if layer.fan_in_fan_out else moved).to(weight.device, weight.dtype)
        self._start = dict(state)

    def finish(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "adapter_model.safetensors")
        for name in self._layers:
            for side, dim, sign in (("lora_A", 0, 1), ("lora_B", 1, -1)):
                key = f"{name}.{side}.weight"
                start = self._start[f"{name}.{side}"].to(weights[key].dtype)
                weights[key] = torch.cat([weights[key], sign * start], dim).contiguous()
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        config["r"] *= 2
        config["lora_alpha"] *= 2**0.5 if config["use_rslora"] else 2  # the scale stays
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), "utf-8")
