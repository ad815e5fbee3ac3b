"""What a stage tells TRL's trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline import Ranks
from .machine import this_machine
from .trl_api import check_values
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from .training_stage import TrainingStage


# The tables were made to measure, so that nothing is cut or prepared again.
_OF_TABLES: Mapping[TrainerKind, Mapping[str, Any]] = {
    "sft": {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}},
    "reward": {"max_length": None},
    "dpo": {"max_length": None},
    "kto": {"max_length": None},
    "orpo": {"max_length": 2**31, "remove_unused_columns": False},
    "grpo": {},
    "rloo": {},
    "classifier": {"remove_unused_columns": False},
    "token_classifier": {"remove_unused_columns": False},
    "seq2seq": {"remove_unused_columns": False},
}


def trainer_arguments(
    stage: TrainingStage, *, output_dir: Path, seed: int, rows: int, checkpointing: bool
) -> dict[str, Any]:
    """Ours, then what the user passed through. rows: of the token table."""
    machine = this_machine()
    steps = stage.steps(rows)
    fixed = {
        "output_dir": str(output_dir),
        "seed": seed,
        "per_device_train_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.gradient_accumulation,
        "learning_rate": stage.resolved_learning_rate,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a NaN must be seen
        "save_strategy": "steps",
        "save_steps": math.ceil(min(500, max(1, steps // 10)) / stage.checkpoint_border)
        * stage.checkpoint_border,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": machine.bf16,
        "use_cpu": not machine.on_gpu,
        "gradient_checkpointing": checkpointing,
        "dataloader_pin_memory": machine.on_gpu,
    }
    pageable = machine.on_gpu and Ranks.of_environment().sharding is None
    if (optimizer := stage.strategy.optimizer(pageable)) is not None:
        fixed["optim"] = optimizer
    length = (
        {"max_steps": stage.max_steps} if stage.max_steps else {"num_train_epochs": stage.resolved_epochs}
    )
    if stage.kind == "prompt":
        length = {"max_steps": steps}  # TRL would leave an incomplete last rollout out
    return {**fixed, **length, **_OF_TABLES[stage.trainer], **stage.trainer_arguments(), **stage.trainer_args}


def check_trainer_values(stage: TrainingStage) -> None:
    """Raises SettingError for a value in `trainer_args` that TRL will not take, before anything is loaded."""
    if stage.trainer_args:  # ours alone need no proof, and importing TRL takes seconds
        arguments = trainer_arguments(stage, output_dir=Path("unused"), seed=0, rows=1, checkpointing=False)
        check_values(stage.title, stage.trainer, arguments, stage.trainer_args)
