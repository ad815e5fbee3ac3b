"""What the launcher asks for: data parallel, or FSDP 2, which divides the model over the processes while it trains."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.errors import LaunchError

# What accelerate's launcher sets in the environment of its processes, and how to start instead.
_FSDP2 = "recipes/launch/fsdp2.yaml"
_ZERO2 = "recipes/launch/zero2.yaml"
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": (
        "DeepSpeed",
        f"take {_FSDP2} for what ZeRO-3 does, {_ZERO2} for ZeRO-2",
    ),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", f"take {_FSDP2}"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a parallelism config", f"take {_FSDP2} without one"),
}
_YES = ("1", "true", "yes", "on")
_UNSET = ("", "none")


@dataclass(frozen=True)
class Sharding:
    """Each rank holds a part of every weight, gradient and optimizer state while a stage trains.

    reshard: whether a layer's whole weights are given back between its forward and its backward pass.
    """

    reshard: bool = True


@dataclass(frozen=True)
class _Setting:
    """One of the launcher's FSDP settings: the values that are taken, and what to do about others."""

    key: str  # in the launcher's file
    taken: tuple[str, ...]
    instead: str

    @property
    def variable(self) -> str:
        return self.key.upper()


_SETTINGS = (
    _Setting("fsdp_version", ("2",), f"and stages train with version 2; set fsdp_version: 2, as {_FSDP2} does"),
    _Setting(
        "fsdp_reshard_after_forward", (*_UNSET, "true", "false"),
        "which is a word of FSDP 1; set it to true or false",
    ),
    _Setting(
        "fsdp_cpu_ram_efficient_loading", (*_UNSET, "false"),
        "and every process loads the model itself; set it to false",
    ),
    _Setting(
        "fsdp_offload_params", (*_UNSET, "false"),
        "and weights are not kept outside of the GPUs; set it to false, or take a strategy that trains less, such as LoRA",
    ),
    _Setting(
        "fsdp_activation_checkpointing", (*_UNSET, "false"),
        "and a stage decides that itself; set it to false, and where it must be on say "
        "trainer_args={'gradient_checkpointing': True}",
    ),
    _Setting(
        "fsdp_state_dict_type", (*_UNSET, "full_state_dict"),
        "and checkpoints are whole; set it to FULL_STATE_DICT",
    ),
    _Setting(
        "fsdp_auto_wrap_policy", (*_UNSET, "transformer_based_wrap"),
        "and a model is divided layer by layer; set it to TRANSFORMER_BASED_WRAP",
    ),
    _Setting(
        "fsdp_transformer_cls_to_wrap", _UNSET,
        "and the layers are found without it; leave fsdp_transformer_layer_cls_to_wrap out",
    ),
    _Setting("fsdp_ignored_modules", _UNSET, "and all of a model is divided; leave it out"),
)  # fmt: skip


def sharding_of(environment: Mapping[str, str]) -> Sharding | None:
    """How FSDP is to divide the model; None where the launcher does not ask for it."""
    if environment.get("ACCELERATE_USE_FSDP", "").lower() not in _YES:
        return None
    return Sharding(reshard=environment.get("FSDP_RESHARD_AFTER_FORWARD", "").lower() != "false")


def check_engine() -> None:
    """Raises LaunchError for an engine, or a setting of FSDP, that stages do not train with."""
    for variable, (engine, instead) in _REFUSED.items():
        if os.environ.get(variable, "").lower() in _YES:
            raise LaunchError(f"The launcher asks for {engine}, which stages do not train with; {instead}.")
    if sharding_of(os.environ) is None:
        return
    for setting in _SETTINGS:
        found = os.environ.get(setting.variable, "1" if setting.key == "fsdp_version" else "")
        if found.lower() not in setting.taken:
            raise LaunchError(f"The launcher asks for FSDP with {setting.key}={found}, {setting.instead}.")
