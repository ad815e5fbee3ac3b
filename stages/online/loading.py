"""Putting the roles of an online stage together on one base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...pipeline import ModelRef
from ...pipeline.adapters import read_config, weights_of
from ..handover import load_for_continuing, load_fresh
from ..machine import this_machine
from ..strategies import LoRA, Strategy
from ..strategies.joined_products import join_products
from .roles import REFERENCE, Roles, is_of

if TYPE_CHECKING:
    from .stage import Critic, OnlineStage

# PEFT config, weights of the layers, score head (1, H)
_RewardAdapter = tuple[Any, dict[str, Any], torch.Tensor]


def load_roles(
    stage: OnlineStage, source: ModelRef, reward: ModelRef | None, seed: int, critic: Critic | None
) -> Roles:
    """Policy, reference, reward model and critic on one copy of the base; on two where the policy trains all of it.

    source: the policy as it comes in. reward: a reward adapter that stands on the very same weights, or None when
    rewards come from elsewhere; then the critic starts fresh. critic: None where nothing asks for values.
    """
    strategy = stage.strategy
    dtype = strategy.weights_dtype(this_machine().on_gpu)
    found = None if reward is None else _read_reward_adapter(reward.adapters[-1].folder)
    if stage.handover == "continue":
        policy = load_for_continuing(stage, source, dtype)
    else:
        policy = load_fresh(stage, source, dtype, seed, None)
    below: list[str] = []
    if _carries(policy, strategy, found):
        trunk = policy
        if stage.copies_reference:
            _add_adapter(policy, REFERENCE, policy.peft_config["default"], _state(policy, "default"))
            below = [REFERENCE]
    else:
        trunk = _carrier(
            source, dtype, found[0] if found else None, with_adapters=critic == "adapter", seed=seed
        )
    roles = Roles(policy, trunk, below=below, critic_is_shared=critic == "shared")
    if critic is not None:
        roles.add_value_head()
    if found is not None:
        config, state, head = found
        roles.score_head = _linear(head, policy.device)
        _add_adapter(trunk, "reward", config, state)
        if critic == "adapter":
            assert roles.value_head is not None
            # A shared head stays zero: on the policy's own states this one would say nothing but noise.
            roles.value_head.weight.data.copy_(head)
            _add_adapter(trunk, "critic", config, state)
    elif critic == "adapter":
        _add_adapter(trunk, "critic", trunk.peft_config["default"], None, seed)
    roles.freeze_all_but_trained()
    return roles


def _carries(policy: Any, strategy: Strategy, reward: _RewardAdapter | None) -> bool:
    """Whether the other roles can live on the policy's own base: PEFT mixes no kinds of adapters in one model."""
    if not strategy.capabilities.several_at_once:
        return False
    return reward is None or reward[0].peft_type == policy.peft_config["default"].peft_type


def _carrier(source: ModelRef, dtype: Any, reward: Any, *, with_adapters: bool, seed: int) -> Any:
    """A frozen copy of the policy as it came in, which carries the other roles' adapters and is the reference.

    reward: the PEFT config of the reward adapter; its kind is the carrier's, whose own adapter changes nothing.
    """
    from peft import get_peft_model

    model = source.load_model(dtype=dtype).requires_grad_(False)
    if reward is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return join_products(get_peft_model(model, _fresh(reward)))
    return join_products(LoRA().wrap(model, "policy", seed)) if with_adapters else model


def _fresh(config: Any) -> Any:
    """The config of a new adapter of the same shape."""
    config = copy.deepcopy(config)
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, False
    return config


def _add_adapter(model: Any, name: str, config: Any, state: dict[str, Any] | None, seed: int = 0) -> None:
    """One adapter more, with the weights of `state`, or fresh ones that change nothing yet."""
    from peft import set_peft_model_state_dict

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(name, _fresh(config))
    if state is not None:
        found = set_peft_model_state_dict(model, state, adapter_name=name)
        own = {
            key for key, _ in model.named_parameters() if is_of(key, name)
        }  # VeRA's buffers are seen many times
        missing = [key for key in found.missing_keys if key in own]
        assert not missing and not found.unexpected_keys, (missing[:3], found.unexpected_keys[:3])
    for parameter_name, parameter in model.named_parameters():
        if is_of(parameter_name, name) and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _state(model: Any, name: str) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    return {key: value.clone() for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}


def _read_reward_adapter(folder: Path) -> _RewardAdapter:
    """(PEFT config, weights of the layers, weight of the score head (1, H)) of a committed reward adapter."""
    from safetensors.torch import load_file

    state = load_file(weights_of(folder))
    heads = [key for key in state if key.rsplit(".", 2)[-2] in ("score", "classifier")]
    (head,) = [state.pop(key) for key in heads]
    return read_config(folder), state, head.float()


def _linear(weight: torch.Tensor, device: Any) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], 1, bias=False, dtype=torch.float32, device=device)
    layer.weight.data.copy_(weight)
    return layer.requires_grad_(False)
