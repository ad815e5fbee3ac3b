"""Checked settings: an unknown name is refused with the nearest real one, wherever a user writes settings."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from posttrain.errors import SettingError


@dataclass(frozen=True)
class Setting:
    """One resolved value and where it came from, for `explain()`."""

    name: str
    value: Any
    source: str  # "given", "default of SFT with LoRA", "this machine", ...


class CheckedSettings:
    """Base of the frozen dataclasses that users write: a misspelt setting names the right one."""

    def __new__(cls, *args: Any, **given: Any) -> Self:
        settings = [field for field in fields(cls) if field.init]  # type: ignore[arg-type]
        refuse_unknown(cls.__name__, given, [field.name for field in settings])
        leading = [field.name for field in settings if not field.kw_only]
        if len(args) > len(leading):
            raise SettingError(
                f"{cls.__name__} takes {len(leading)} settings without a name ({', '.join(leading)}) and got "
                f"{len(args)}; write the others as name=value."
            )
        return super().__new__(cls)


# What the same thing is called in TRL and transformers, LLaMA-Factory, ms-swift, axolotl and Unsloth.
_KNOWN_ELSEWHERE = {
    "epochs": ("num_train_epochs", "num_epochs", "n_epochs"),
    "batch_size": ("per_device_train_batch_size", "micro_batch_size", "train_batch_size"),
    "gradient_accumulation": ("gradient_accumulation_steps", "grad_accum"),
    "learning_rate": ("lr",),
    "max_length": ("cutoff_len", "max_seq_length", "max_seq_len", "sequence_len", "model_max_length"),
    "data": ("dataset", "datasets", "train_dataset", "train_data", "data_files", "dataset_path"),
    "eval_data": ("eval_dataset", "val_dataset", "test_datasets", "validation_data"),
    "strategy": ("peft_config", "finetuning_type", "train_type", "peft"),
    "beta": ("pref_beta", "dpo_beta"),
    "r": ("rank", "lora_r", "lora_rank"),
    "alpha": ("lora_alpha",),
    "dropout": ("lora_dropout",),
    "target_modules": ("lora_target", "lora_target_modules"),
    "model": ("model_name_or_path", "base_model", "model_id", "model_name"),
    "run_dir": ("output_dir", "save_dir"),
    "track": ("report_to",),
    "seed": ("random_seed",),
    "max_new_tokens": ("max_completion_length", "response_length", "max_response_length"),
    "num_generations": ("group_size", "num_return_sequences", "n_samples_per_prompt"),
    "reward": ("reward_funcs", "reward_fn", "reward_function", "reward_model"),
    "kl_coef": ("init_kl_coef", "kl_beta"),
}


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises SettingError naming the first of `given` that is not in `known`, with the nearest that is."""
    known = list(known)
    for name in given:
        if name not in known:
            near = [ours for ours, others in _KNOWN_ELSEWHERE.items() if name in others and ours in known]
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known)[:20])}."
            raise SettingError(f"{owner} has no setting {name!r}; {hint}")


def refuse(owner: str, name: str, value: Any, allowed: str) -> None:
    """Raises SettingError for a value out of its range."""
    raise SettingError(f"{owner}({name}={value!r}): {name} must be {allowed}.")


def check_number(
    owner: str, name: str, value: Any, *, above: float | None = None, least: float | None = None,
    below: float | None = None, most: float | None = None, whole: bool = False,
) -> None:  # fmt: skip
    """Raises SettingError unless `value` is None or a number in the range."""
    if value is None:
        return
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"at least {least:g}"] if least is not None else []
    bounds += [f"below {below:g}"] if below is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    allowed = f"a {'whole ' if whole else ''}number {' and '.join(bounds)}".rstrip()
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        refuse(owner, name, value, allowed)
    if value != value or value in (float("inf"), float("-inf")):
        refuse(owner, name, value, allowed)
    if (above is not None and value <= above) or (least is not None and value < least):
        refuse(owner, name, value, allowed)
    if (below is not None and value >= below) or (most is not None and value > most):
        refuse(owner, name, value, allowed)


def check_choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises SettingError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        refuse(owner, name, value, "one of " * (len(choices) > 1) + ", ".join(map(repr, choices)))


def as_plain(value: Any) -> Any:
    """A setting as JSON: dataclasses become {"type": class name, field: value ...}."""
    if hasattr(value, "__dataclass_fields__"):
        return {"type": type(value).__name__} | {
            field.name: as_plain(getattr(value, field.name)) for field in fields(value) if field.init
        }
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if callable(value):  # its text would hold an address, another one in every process
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        )
    return str(value)
