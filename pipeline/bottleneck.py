"""The bottleneck adapter as a PEFT tuner: PEFT has none, and with this one saves, loads, disables and switches it.

A registered kind is read by `PeftModel.from_pretrained` like any other. Needs torch and PEFT; see `adapters` for who
asks for it.

# ... any leading dimensions, H hidden size, K bottleneck
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from .adapters import BOTTLENECK

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


@dataclass
class BottleneckConfig(PeftConfig):
    """As PEFT writes it into adapter_config.json."""

    target_modules: Sequence[str] | None = field(default=None)  # the layers behind which an adapter stands
    bottleneck: int = field(default=64)
    activation: str = field(default="relu")
    dropout: float = field(default=0.0)
    modules_to_save: Sequence[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with x + W_up act(W_down x) behind it; W_up starts at zero, so it changes nothing yet.

    Several active adapters stand behind each other in their order.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_act",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_act = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """One adapter more."""
        base = self.get_base_layer()
        # Conv1D, GPT-2's linear layer, has its width as nf.
        width = base.nf if hasattr(base, "nf") else base.out_features
        self.bottleneck_down[adapter_name] = nn.Linear(width, config.bottleneck)
        self.bottleneck_act[adapter_name] = nn.Sequential(
            ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)
        )
        self.bottleneck_up[adapter_name] = nn.Linear(config.bottleneck, width)
        nn.init.zeros_(self.bottleneck_up[adapter_name].weight)
        nn.init.zeros_(self.bottleneck_up[adapter_name].bias)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., H) as the layer gives it, through the active adapters."""
        out: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return out
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down = self.bottleneck_down[name]
            inner = self.bottleneck_act[name](down(self._cast_input_dtype(out, down.weight.dtype)))
            out = out + self.bottleneck_up[name](inner).to(out.dtype)
        return out


class BottleneckModel(BaseTuner):
    """The model with adapters behind some of its layers."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # the strategy names the layers itself

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str,
        parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def register() -> None:
    """Make the kind known to PEFT.

    PEFT's `register_peft_method` takes members of its enum alone. The enum is one of strings, and the tables are read
    with what adapter_config.json says, so a string as the key does the same without touching the enum.
    """
    PEFT_TYPE_TO_CONFIG_MAPPING[BOTTLENECK] = BottleneckConfig
    PEFT_TYPE_TO_TUNER_MAPPING[BOTTLENECK] = BottleneckModel
    PEFT_TYPE_TO_PREFIX_MAPPING[BOTTLENECK] = BottleneckModel.prefix
