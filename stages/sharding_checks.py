"""What can train a model that FSDP divides over the processes, and what is refused when the run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.errors import LaunchError

if TYPE_CHECKING:
    from .training_stage import TrainingStage

_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")  # whose states are divided as the parameters are
# Each changes how a step is computed, and none was tried with parameters in parts.
_UNTRIED = ("fp16", "torch_compile", "use_liger_kernel", "activation_offloading", "auto_find_batch_size")
_WHOLE = "start the run with recipes/launch/ddp.yaml, where each process holds the whole model"


def check_sharded(stage: TrainingStage) -> None:
    """Raises LaunchError where the stage, its strategy or a setting of the trainer takes a whole model."""
    place = f"Stage {stage.title}: {type(stage).__name__}"
    if not stage.shardable:
        raise LaunchError(
            f"{place} with {stage.strategy} needs the whole model in each process while it trains, and the launcher asks "
            f"for FSDP; {_WHOLE}."
        )
    if not stage.strategy.capabilities.shardable:
        raise LaunchError(
            f"{place} cannot train {stage.strategy} in parts, for which the launcher asks with FSDP; take LoRA() or Full(), "
            f"or {_WHOLE}."
        )
    if stage.strategy.base_format == "int8":
        raise LaunchError(
            f"{place} cannot train {stage.strategy} in parts, for which the launcher asks with FSDP: 8-bit weights lose "
            f"their scales; take bits=4, or {_WHOLE}."
        )
    given = stage.trainer_args
    optimizer = str(given.get("optim") or stage.strategy.optimizer(pageable=False) or _OPTIMIZERS[0])
    if optimizer not in _OPTIMIZERS:
        raise LaunchError(
            f"{place} with the optimizer {optimizer} was not tried with a model that FSDP divides; take one of "
            f"{', '.join(_OPTIMIZERS)} in trainer_args={{'optim': ...}}, or {_WHOLE}."
        )
    for name in _UNTRIED:
        if given.get(name):
            raise LaunchError(
                f"{place}(trainer_args={{{name!r}: {given[name]!r}}}) was not tried with a model that FSDP divides; leave it "
                f"out, or {_WHOLE}."
            )
