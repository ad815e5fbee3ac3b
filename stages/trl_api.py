"""How a stage reaches TRL: which of its settings may be given, and how its trainers are made."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigurationError, SettingError

from ..pipeline.engine import Sharding
from ..pipeline.settings import refuse_unknown
from .trl_trainers import (
    CONFIGS,
    RowRollouts,
    TrainerKind,
    config_class,
    fuse_head,
    room_for_a_copy,
    set_reference_adapter,
    trainer_class,
)

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
    "max_completion_length": "max_new_tokens=",
    "num_generations": "num_generations=",
    "reward_weights": "reward_weights=",
    "desirable_weight": "desirable_weight=",
    "undesirable_weight": "undesirable_weight=",
}
# Settings that would make the token tables or the checkpoints something else than what was checked.
_FIXED = (
    "dataset_kwargs", "dataset_text_field", "packing", "padding_free", "completion_only_loss", "assistant_only_loss",
    "truncation_mode", "remove_unused_columns", "resume_from_checkpoint", "save_strategy", "save_total_limit",
    "save_only_model", "load_best_model_at_end", "eval_strategy", "disable_tqdm", "push_to_hub", "use_cpu",
    "logging_nan_inf_filter", "model_init_kwargs", "trust_remote_code", "chat_template_path", "precompute_ref_log_probs",
    "train_sampling_strategy", "sync_ref_model", "is_encoder_decoder", "generate_during_eval",
    "predict_with_generate", "generation_max_length", "generation_num_beams", "generation_config", "sortish_sampler",
    "label_names",
)  # fmt: skip
_SHARDING = ("fsdp", "fsdp_config", "deepspeed", "parallelism_config")
# Of GRPO and RLOO: how TRL would sample and show answers, which are sampled and shown by us.
_SAMPLING = (
    "top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation", "chat_template_kwargs",
    "use_vllm", "use_transformers_paged", "use_transformers_continuous_batching",
    "transformers_continuous_batching_config", "log_completions", "log_completions_hub_repo", "log_multimodal",
    "log_unique_prompts", "num_completions_to_print", "num_generations_eval", "max_tool_calling_iterations",
)  # fmt: skip


def check_trainer_args(owner: str, kind: TrainerKind, given: Mapping[str, Any]) -> None:
    """Raises SettingError for a key that TRL's config has not, or that has its place elsewhere. Imports no torch."""
    if not given:
        return
    refuse_unknown(f"{owner}(trainer_args=...)", given, config_fields(kind))
    for name in given:
        if name in _SHARDING:
            raise SettingError(
                f"{owner}(trainer_args={{{name!r}: ...}}): this is asked of the launcher; leave it out, and to divide the model "
                "over processes start with recipes/launch/fsdp2.yaml."
            )
        if name in _OURS:
            raise SettingError(f"{owner}(trainer_args={{{name!r}: ...}}): say it as {_OURS[name]} instead.")
        if name in _FIXED:
            raise SettingError(
                f"{owner}(trainer_args={{{name!r}: ...}}): posttrain sets {name} itself, because its token tables, "
                "checkpoints or proofs depend on it; leave it out."
            )
        if name in _SAMPLING or name.startswith("vllm_"):
            raise SettingError(
                f"{owner}(trainer_args={{{name!r}: ...}}): posttrain samples the answers itself, from the policy's own "
                "distribution at temperature; leave it out."
            )


def check_values(
    owner: str, kind: TrainerKind, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raises SettingError for a value of `given`, a part of `arguments`, that TRL's config does not take."""
    config = config_class(kind)
    ours = {name: value for name, value in arguments.items() if name not in given}
    # One by one, to name the culprit; then together, for those that only clash with each other.
    for names in [*[[name] for name in given], list(given)]:
        try:
            config(**ours, **{name: given[name] for name in names})
        except Exception as error:
            values = ", ".join(f"{name!r}: {given[name]!r}" for name in names)
            raise SettingError(
                f"Stage {owner}: trainer_args={{{values}}} is refused by {'TRL' if CONFIGS[kind][0] == 'trl' else 'transformers'}: {error}"
            ) from error


@lru_cache(maxsize=8)
def config_fields(kind: TrainerKind) -> tuple[str, ...]:
    """The field names of the trainer's config dataclass, read from its source: importing it would take ten seconds."""
    places = [
        CONFIGS[kind],
        *([("trl", "trainer/base_config.py", "_BaseConfig")] if CONFIGS[kind][0] == "trl" else []),
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
    rate_factors: Mapping[str, float] | None = None,
    reference: Any = None,
    keep_adapter_copy: bool = False,
    rollouts: RowRollouts | None = None,
    sharding: Sharding | None = None,
) -> Any:
    """A TRL trainer over a ready-made token table.

    rate_factors: parameter name -> factor of the learning rate, 1 where none is given.
    reference: a frozen model, or None when the policy's adapters carry the reference: adapters off, or, with
    `keep_adapter_copy`, a frozen copy of the adapter as it is now.
    rollouts: who answers and scores, for GRPO and RLOO; the dataset's prompts are then row numbers.
    sharding: how the ranks divide the model while it trains; not with rollouts.
    """
    import torch
    from peft import PeftModel
    from transformers import PrinterCallback

    from .sharding import seen_as_data_parallel

    common = {"train_dataset": dataset, "processing_class": tokenizer, "callbacks": list(callbacks)}
    if rollouts is not None:
        trainer = _online_trainer(kind, model, arguments, reference, rollouts, common)
    else:
        compares = kind in ("dpo", "kto")
        common |= {"ref_model": reference} if compares else {}
        made = trainer_class(kind, on_shards=sharding is not None)
        with room_for_a_copy(model), seen_as_data_parallel():
            trainer = made(model=model, args=config_class(kind)(**arguments), **common)
        if sharding is not None:
            trainer.sharding = sharding
        if compares and isinstance(model, PeftModel):
            set_reference_adapter(model, keep_adapter_copy)
    trainer.remove_callback(PrinterCallback)
    trainer.rate_factors = rate_factors or {}
    for parameter in model.parameters():
        # TRL casts adapters over a 4-bit base to bfloat16, which loses small updates and crawls on a CPU.
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return trainer


def _online_trainer(
    kind: TrainerKind, model: Any, arguments: Mapping[str, Any], reference: Any, rollouts: RowRollouts,
    common: Mapping[str, Any],
) -> Any:  # fmt: skip
    """GRPO's or RLOO's. With a beta of its own TRL would load the reference of a whole model from the disk, where
    the base is and not the policy as it came in; so beta and reference are set when it is made.
    """
    from peft import PeftModel

    def reward(prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return list(rollouts.score([int(prompt) for prompt in prompts], completion_ids))

    trainer = trainer_class(kind)(
        model=model, args=config_class(kind)(**{**arguments, "beta": 0.0}), reward_funcs=[reward], **common
    )
    trainer.rollouts, trainer.beta = rollouts, arguments["beta"]
    if reference is not None and trainer.beta:
        inner = reference.get_base_model() if isinstance(reference, PeftModel) else reference
        fuse_head(inner, temperature=trainer.temperature)
        trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
    return trainer
