"""What PPO must remember to go on bit for bit: weights, optimizer, penalty and statistics, at a rollout's border."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import CorruptArtifactError

from ...pipeline.durable import write_json
from ..checkpoints import commit_checkpoint
from ..strategies import StepHooks
from .formulas import KLController, RunningMoments

_TENSORS, _NUMBERS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """Everything that changes while PPO runs, but for the tensors. Random numbers come of seed and step alone."""

    step: int  # rollouts whose updates are done
    controller: KLController
    moments: RunningMoments
    rate_steps: int  # optimizer steps so far, for the learning-rate schedule


def save_state(
    checkpoints: Path, scratch: Path, progress: Progress, parameters: Mapping[str, Any], optimizer: Any,
    hooks: StepHooks,
) -> None:  # fmt: skip
    """Commit a checkpoint of all trained parameters, their optimizer state, the strategy's state, and the progress."""
    from safetensors.torch import save_file

    written = scratch / f"step-{progress.step}"
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    tensors = {f"parameter.{name}": p.detach() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors |= {f"strategy.{key}": value for key, value in hooks.state().items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, written / _TENSORS)
    write_json(written / _NUMBERS, asdict(progress))
    commit_checkpoint(written, checkpoints, progress.step)


def load_state(checkpoint: Path, parameters: Mapping[str, Any], optimizer: Any, hooks: StepHooks) -> Progress:
    """Put a checkpoint back, in place.

    Raises CorruptArtifactError when it holds other parameters than these.
    """
    from safetensors.torch import load_file

    tensors = load_file(checkpoint / _TENSORS)
    names = {key.removeprefix("parameter.") for key in tensors if key.startswith("parameter.")}
    if names != set(parameters):
        raise CorruptArtifactError(
            f"{checkpoint} holds other parameters than this stage trains; delete it to start the stage again."
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"parameter.{name}"])
        kept = {key.split(".")[1]: value for key, value in tensors.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name}  # fmt: skip
        if kept:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in kept.items()
            }
    hooks.restore({
        key.removeprefix("strategy."): value for key, value in tensors.items() if key.startswith("strategy.")
    })  # fmt: skip
    numbers: dict[str, Any] = json.loads((checkpoint / _NUMBERS).read_text("utf-8"))
    return Progress(
        step=numbers["step"],
        controller=KLController(**numbers["controller"]),
        moments=RunningMoments(**numbers["moments"]),
        rate_steps=numbers["rate_steps"],
    )


def fresh_progress(kl_coef: float, target_kl: float | None, horizon: int) -> Progress:
    return Progress(0, KLController(kl_coef, target_kl, horizon), RunningMoments(), 0)


def trained_parameters(roles: Any) -> dict[str, torch.nn.Parameter]:
    """By names that are the same in every process: policy.*, critic.*, value_head."""
    named: dict[str, torch.nn.Parameter] = {}
    of_policy = {id(p) for p in roles.policy_parameters}
    of_critic = {id(p) for p in roles.critic_parameters}
    for name, parameter in roles.policy.named_parameters():
        if id(parameter) in of_policy:
            named[f"policy.{name}"] = parameter
    for name, parameter in roles.trunk.named_parameters():
        if id(parameter) in of_critic:
            named[f"critic.{name}"] = parameter
    named["value_head"] = roles.value_head.weight
    return named
