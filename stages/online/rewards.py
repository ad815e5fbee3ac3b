"""Where rewards come from: a reward model on the policy's base, another model, or functions; checked at every call."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from posttrain.errors import RewardError, SettingError

from ...pipeline import ModelRef
from ...pipeline.settings import CheckedSettings

RewardFunction = Callable[..., Sequence[float]]  # (prompts, completions, **columns) -> one number each


@dataclass(frozen=True)
class RewardModelRef(CheckedSettings):
    """A trained reward model of an earlier run, or of somebody else.

    path: a run folder (its newest reward model is taken), or the folder of a sequence-classification model.
    """

    path: str | Path

    @property
    def name(self) -> str:
        return Path(self.path).name


RewardSource = RewardFunction | RewardModelRef


def name_of(source: RewardSource) -> str:
    return source.name if isinstance(source, RewardModelRef) else getattr(source, "__name__", "reward")


def check_source(owner: str, source: Any) -> None:
    """Raises SettingError for what is neither a function nor a RewardModelRef."""
    if isinstance(source, RewardModelRef):
        return
    if not callable(source) or isinstance(source, type):
        raise SettingError(
            f"{owner}(reward={source!r}): a reward is a function f(prompts, completions, **columns) -> list of numbers, "
            "a RewardModelRef('runs/x'), or a list of these."
        )


def identity_of(source: RewardSource) -> Mapping[str, Any]:
    """What decides a source's scores, for the stage's key: a function's name and text, a model's fingerprint."""
    if isinstance(source, RewardModelRef):
        return {"reward_model": reward_model_of(source).fingerprint}
    try:
        text = inspect.getsource(source)
    except (OSError, TypeError):  # made at run time; its name has to do
        text = ""
    name = f"{getattr(source, '__module__', '')}.{getattr(source, '__qualname__', type(source).__qualname__)}"
    return {"function": name, "source": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True)
class Answered:
    """Answers, as every reward source is given them."""

    prompt_ids: Sequence[Sequence[int]]
    answer_ids: Sequence[Sequence[int]]
    prompts: Sequence[Any]  # as the file has them: texts, or message lists
    completions: Sequence[str]  # without special tokens
    columns: Mapping[str, Sequence[Any]]  # the rows' other columns; None where a row has none


def call_function(function: RewardFunction, answered: Answered) -> list[float]:
    """The function's numbers, one for each answer.

    Raises RewardError when it raises, or gives another count, another type, NaN or infinity.
    """
    name = name_of(function)
    try:
        values = function(list(answered.prompts), list(answered.completions), **answered.columns)
    except Exception as error:
        raise RewardError(
            f"The reward function {name} raised {type(error).__name__}: {error}; the state is saved, mend it and run again."
        ) from error
    wanted = len(answered.completions)
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise RewardError(
            f"The reward function {name} gave a {type(values).__name__}; it must give a list of {wanted} numbers, one for "
            "each completion."
        )
    if len(values) != wanted:
        raise RewardError(f"The reward function {name} gave {len(values)} numbers for {wanted} completions.")
    for number, value in enumerate(values):
        if not isinstance(value, Real):
            raise RewardError(
                f"The reward function {name} gave {value!r} for completion {number}, a {type(value).__name__}; it must "
                "give a number."
            )
        if not math.isfinite(value):
            raise RewardError(
                f"The reward function {name} gave {value} for completion {number} "
                f"({answered.completions[number][:60]!r}); it must give a finite number."
            )
    return [float(value) for value in values]


def bytes_of(model: ModelRef) -> int:
    """Of a whole model's weights in memory, from the sizes of its files and the dtype that its config names."""
    from ..machine import this_machine

    base = model.find()
    files = sum(path.stat().st_size for path in base.folder.glob("*.safetensors"))
    stored = 4 if base.config.get("dtype", base.config.get("torch_dtype")) in (None, "float32") else 2
    return files * (2 if this_machine().on_gpu else 4) // stored


def reward_model_of(source: RewardModelRef) -> ModelRef:
    """The model behind a RewardModelRef; a run folder gives its newest reward model.

    Raises SettingError when there is none.
    """
    from ...pipeline.run import RUN_FILE, Run

    folder = Path(source.path).expanduser()
    if not (folder / RUN_FILE).is_file():
        from ...pipeline.base_models import Base
        from ...pipeline.model_folder import check_model_folder

        if not folder.is_dir():
            raise SettingError(
                f"RewardModelRef({str(source.path)!r}): there is no such folder; give a run folder or a "
                "sequence-classification model."
            )
        check_model_folder(folder, reward=True)
        return ModelRef(str(folder.resolve()), Base(str(folder), folder.resolve()).fingerprint, head="reward")
    model = Run.load(folder).reward_model
    if model is None:
        raise SettingError(
            f"RewardModelRef({str(source.path)!r}): the run has no finished reward model; put RewardModel(...) into it."
        )
    return model
