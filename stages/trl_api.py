"""The only module that knows TRL: its configs' fields, its trainers, and what is overridden in them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ConfigurationError, SettingError

from ..pipeline.settings import refuse_unknown

TrainerKind = Literal["sft", "reward", "dpo"]

# What a user would write in trainer_args but must say to the stage or the pipeline, so that there is one place.
_OURS = {
    "output_dir": "Pipeline(run_dir=...)",
    "seed": "Pipeline(seed=...)",
    "data_seed": "Pipeline(seed=...)",
    "report_to": "Pipeline(track=...)",
    "learning_rate": "learning_rate=",
    "num_train_epochs": "epochs=",
    "max_steps": "max_steps=",
    "per_device_train_batch_size": "batch_size=",
    "gradient_accumulation_steps": "gradient_accumulation=",
    "max_length": "max_length=",
    "beta": "beta=",
}
# Settings that would make the token tables or the checkpoints something else than what was checked.
_FIXED = (
    "dataset_kwargs", "dataset_text_field", "packing", "padding_free", "completion_only_loss", "assistant_only_loss",
    "truncation_mode", "remove_unused_columns", "resume_from_checkpoint", "save_strategy", "save_total_limit",
    "save_only_model", "load_best_model_at_end", "eval_strategy", "disable_tqdm", "push_to_hub", "use_cpu",
    "logging_nan_inf_filter", "model_init_kwargs", "trust_remote_code", "chat_template_path", "precompute_ref_log_probs",
)  # fmt: skip


def check_trainer_args(owner: str, kind: TrainerKind, given: Mapping[str, Any]) -> None:
    """Raises SettingError for a key that TRL's config has not, or that has its place elsewhere. Imports no torch."""
    if not given:
        return
    refuse_unknown(f"{owner}(trainer_args=...)", given, config_fields(kind))
    for name in given:
        if name in _OURS:
            raise SettingError(f"{owner}(trainer_args={{{name!r}: ...}}): say it as {_OURS[name]} instead.")
        if name in _FIXED:
            raise SettingError(
                f"{owner}(trainer_args={{{name!r}: ...}}): posttrain sets {name} itself, because its token tables, "
                "checkpoints or proofs depend on it; leave it out."
            )


def check_values(
    owner: str, kind: TrainerKind, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raises SettingError for a value of `given`, a part of `arguments`, that TRL's config does not take."""
    config_class = _classes(kind)[1]
    ours = {name: value for name, value in arguments.items() if name not in given}
    # One by one, to name the culprit; then together, for those that only clash with each other.
    for names in [*[[name] for name in given], list(given)]:
        try:
            config_class(**ours, **{name: given[name] for name in names})
        except Exception as error:
            values = ", ".join(f"{name!r}: {given[name]!r}" for name in names)
            raise SettingError(
                f"Stage {owner}: trainer_args={{{values}}} is refused by TRL: {error}"
            ) from error


@lru_cache(maxsize=3)
def config_fields(kind: TrainerKind) -> tuple[str, ...]:
    """The field names of TRL's config dataclass, read from its source: importing it would take ten seconds."""
    places = [
        (
            "trl",
            f"trainer/{kind}_config.py",
            {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig"}[kind],
        ),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ]
    names: list[str] = []
    for package, file, wanted in places:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigurationError(f"The package {package} is not installed; run: pip install {package}")
        source = Path(next(iter(spec.submodule_search_locations))) / file
        for node in ast.parse(source.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == wanted:
                names += [line.target.id for line in node.body
                          if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]  # fmt: skip
    return tuple(dict.fromkeys(names))


def make_trainer(
    kind: TrainerKind,
    *,
    model: Any,
    tokenizer: Any,
    dataset: Any,
    arguments: Mapping[str, Any],
    callbacks: Sequence[Any],
    reference: Any = None,
    keep_adapter_copy: bool = False,
) -> Any:
    """A TRL trainer over a ready-made token table.

    reference: a frozen model for DPO, or None when the policy's adapters carry the reference: adapters off, or, with
    `keep_adapter_copy`, a frozen copy of the adapter as it is now.
    """
    import torch
    from peft import PeftModel
    from transformers import PrinterCallback

    trainer_class, config_class = _classes(kind)
    extra = {"ref_model": reference} if kind == "dpo" else {}
    trainer = trainer_class(
        model=model, args=config_class(**arguments), train_dataset=dataset, processing_class=tokenizer,
        callbacks=list(callbacks), **extra,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if kind == "dpo" and isinstance(model, PeftModel):
        _set_reference_adapter(model, keep_adapter_copy)
    for parameter in model.parameters():
        # TRL casts adapters over a 4-bit base to bfloat16, which loses small updates and crawls on a CPU.
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return trainer


def _classes(kind: TrainerKind) -> tuple[type, type]:
    if kind == "sft":
        from trl import SFTConfig, SFTTrainer

        return SFTTrainer, SFTConfig
    if kind == "reward":
        from trl import RewardConfig, RewardTrainer

        return RewardTrainer, RewardConfig
    from trl import DPOConfig, DPOTrainer

    class TableDPOTrainer(DPOTrainer):
        """DPOTrainer that takes prompt_ids, chosen_ids and rejected_ids as they are.

        SFT and Reward trainers accept token tables; DPO's alone would tokenise texts again.
        """

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    return TableDPOTrainer, DPOConfig


def _set_reference_adapter(model: Any, keep_copy: bool) -> None:
    """TRL adds a "ref" adapter by matching names, which misses several kinds; make it right, or take it away."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    if not keep_copy:
        model.delete_adapter("ref")  # the reference is then the base with its adapters off
        return
    trained = get_peft_model_state_dict(model, adapter_name="default")
    set_peft_model_state_dict(model, trained, adapter_name="ref")
    for name, parameter in model.named_parameters():
        if ".ref." in name or name.endswith(".ref"):
            parameter.requires_grad_(False)
