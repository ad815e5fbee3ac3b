"""LoRA adapters as sums of factors: a lineage, or a weighted mixture, is exactly one adapter of summed rank.

# R rank, I input features, O output features of a layer
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import StrategyError

from .adapters import kind_of, read_config, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from .model_ref import AdapterRef, ModelRef

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Factors:
    """W + B A, the scaling inside B."""

    a_RI: Tensor
    b_OR: Tensor

    @property
    def rank(self) -> int:
        return int(self.a_RI.shape[0])


@dataclass(frozen=True)
class PlainLora:
    """What a LoRA without further parts adds to the layers of a model, by their names."""

    layers: Mapping[str, Factors]
    transposed: bool = False  # the layers store W as (I, O), as GPT-2's do

    @classmethod
    def of(cls, model: ModelRef) -> PlainLora:
        """All adapters of a model as one on its base.

        Raises StrategyError, with the reason, where an adapter is more than a plain LoRA on the unchanged weights.
        """
        return cls.sum([cls.read(adapter) for adapter in model.adapters])

    @classmethod
    def read(cls, adapter: AdapterRef) -> PlainLora:
        """One adapter as it lies on disk; its files are not verified here."""
        from safetensors.torch import load_file

        folder = adapter.folder
        if adapter.merge_onto != "weights":
            raise StrategyError(
                f"{folder} was merged onto {adapter.merge_onto} weights, which are other than the base's."
            )
        if kind_of(folder) != "LORA":
            raise StrategyError(
                f"{folder} is of the kind {kind_of(folder)}, which is no sum of low-rank factors."
            )
        config = read_config(folder)
        if config.use_dora or config.alora_invocation_tokens or config.use_qalora:
            raise StrategyError(f"{folder} is a LoRA with more than its two factors (DoRA or alike).")
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(weights_of(folder)).items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise StrategyError(f"{folder} holds {key}, which a plain LoRA does not.")
            found.setdefault(match[1], {})[match[2]] = value
        layers = {
            name: Factors(both["A"].float(), both["B"].float() * _scaling(config, name, len(both["A"])))
            for name, both in found.items()
        }
        return cls(layers, bool(config.fan_in_fan_out))

    @classmethod
    def sum(cls, loras: Sequence[PlainLora], weights: Sequence[float] | None = None) -> PlainLora:
        """The weighted sum of what they add, exactly: factors side by side. weights: None is 1 for each."""
        import torch

        given = [1.0] * len(loras) if weights is None else weights
        names = dict.fromkeys(name for lora in loras for name in lora.layers)
        layers = {}
        for name in names:
            parts = [
                (lora.layers[name], w) for lora, w in zip(loras, given, strict=True) if name in lora.layers
            ]
            a_RI = torch.cat([one.a_RI for one, _ in parts])
            b_OR = torch.cat([one.b_OR * weight for one, weight in parts], dim=1)
            layers[name] = Factors(a_RI, b_OR)
        return cls(layers, any(lora.transposed for lora in loras))

    def cut_to(self, rank: int) -> tuple[PlainLora, float]:
        """The nearest adapter of this rank, and how far it is: |difference| / |sum|, over all layers, Frobenius.

        By Eckart and Young the largest singular values of B A are kept; B A itself is never built.
        """
        import torch

        layers, lost, whole = {}, 0.0, 0.0
        for name, one in self.layers.items():
            # B A = Qb (Rb Ra') Qa', so the small matrix in the middle has the singular values.
            qb, rb = torch.linalg.qr(one.b_OR.double())
            qa, ra = torch.linalg.qr(one.a_RI.double().T)
            u, s, vt = torch.linalg.svd(rb @ ra.T)
            kept = s[:rank].sqrt()
            layers[name] = Factors(
                (kept[:, None] * (vt[:rank] @ qa.T)).float(), ((qb @ u[:, :rank]) * kept).float()
            )
            lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
        return PlainLora(layers, self.transposed), math.sqrt(lost / whole) if whole else 0.0

    def config(self) -> Any:
        """For PEFT: the scaling of every layer is 1."""
        from peft import LoraConfig

        ranks = {name: one.rank for name, one in self.layers.items()}
        most = max(ranks.values())
        others = {re.escape(name): rank for name, rank in ranks.items() if rank != most}
        return LoraConfig(
            r=most, lora_alpha=most, rank_pattern=others, alpha_pattern=others, target_modules=sorted(ranks),
            fan_in_fan_out=self.transposed, task_type="CAUSAL_LM", inference_mode=True, init_lora_weights=False,
        )  # fmt: skip

    def put_on(self, model: Any, name: str) -> Any:
        """Live on a model beside what it has, under this name. Returns the PEFT model, which the first one makes."""
        import torch
        from peft import PeftModel, PeftModelForCausalLM

        if isinstance(model, PeftModel):
            model.add_adapter(name, self.config())
        else:
            model = PeftModelForCausalLM(model, self.config(), adapter_name=name)
        inner = (
            model.base_model.model
        )  # get_base_model() asks for an active adapter, and all may have been removed
        for layer_name, one in self.layers.items():
            layer = inner.get_submodule(layer_name)
            for part, value in ((layer.lora_A[name], one.a_RI), (layer.lora_B[name], one.b_OR)):
                assert part.weight.shape == value.shape, layer_name
                part.weight = torch.nn.Parameter(value.to(part.weight), requires_grad=False)
        return model.eval()

    def save(self, folder: Path, base: str | None = None) -> None:
        """As PEFT writes it. base: the name of the model that it stands on."""
        from safetensors.torch import save_file

        tensors = {
            f"base_model.model.{name}.lora_{part}.weight": value.contiguous()
            for name, one in self.layers.items()
            for part, value in (("A", one.a_RI), ("B", one.b_OR))
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self.config()
        config.base_model_name_or_path = base
        config.save_pretrained(folder)


def _scaling(config: Any, name: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
    return float(alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)
