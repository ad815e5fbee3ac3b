"""Heads: what stands on a backbone, how a fresh one is put there, and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import ModelError

from .durable import read_json, write_json
from .model_folder import Head

LABELS = "labels.json"  # beside an adapter whose head has named classes
TRAINED_HEADS = ("reward", "classifier", "token_classifier")  # those that no base brings along
_AUTO = {
    "ForCausalLM": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "WithLMHeadModel": "AutoModelForSeq2SeqLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "Model": "AutoModel",
}
_SHELLS: Mapping[Head, str] = {
    "reward": "AutoModelForSequenceClassification",
    "classifier": "AutoModelForSequenceClassification",
    "token_classifier": "AutoModelForTokenClassification",
}


@dataclass(frozen=True)
class Labels:
    """The names of classes in the order of their numbers."""

    names: tuple[str, ...]
    several: bool = False  # any number of them for each text, instead of exactly one

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Labels:
        return cls(tuple(value["names"]), bool(value["several"]))

    @classmethod
    def read(cls, folder: Path) -> Labels:
        return cls.from_dict(read_json(folder / LABELS))

    @classmethod
    def of(cls, config: Any) -> Labels:
        """Those of a transformers config."""
        names = tuple(config.id2label[i] for i in range(config.num_labels))
        return cls(names, config.problem_type == "multi_label_classification")

    def write(self, folder: Path) -> None:
        write_json(folder / LABELS, {"names": list(self.names), "several": self.several})


def auto_class(config: Mapping[str, Any]) -> Any:
    """The Auto class of transformers that loads a model of this config.json with all its own weights."""
    import transformers

    name = str((config.get("architectures") or ["ForCausalLM"])[0])
    found = next(auto for ending, auto in _AUTO.items() if ending in name)
    return getattr(transformers, found)


def with_head(model: Any, head: Head, labels: Labels | None = None, seed: int = 0) -> Any:
    """A model with a fresh head on the very same backbone (no copy of its weights); a head of its own is left behind.

    head: one of TRAINED_HEADS. labels: None is one score, as a reward model has. The head's weights start
    normal(0, initializer_range) from `seed`, its biases at 0; so does a pooler that the model came without. The
    backbone keeps the adapters merged into it, which PEFT cannot do itself: a causal adapter does not load on a
    classification model. Raises ModelError when transformers has no such model on this backbone.
    """
    import torch
    import transformers

    config = type(model.config).from_dict(model.config.to_dict())
    config.num_labels = 1 if labels is None else len(labels.names)
    if labels is not None:
        config.id2label = dict(enumerate(labels.names))
        config.label2id = {name: i for i, name in enumerate(labels.names)}
        several = "multi_label_classification" if labels.several else "single_label_classification"
        config.problem_type = several if head == "classifier" else None
    try:
        with torch.device("meta"):
            shell = getattr(transformers, _SHELLS[head]).from_config(
                config,
                trust_remote_code=False,  # no such code makes a head of ours
            )
    except ValueError as error:
        raise ModelError(
            f"transformers has no {_SHELLS[head].removeprefix('AutoModelFor')} for models of type "
            f"{config.model_type!r}; start from another model."
        ) from error
    prefix = shell.base_model_prefix
    backbone, empty = getattr(model, prefix, model), getattr(shell, prefix)
    for name, child in empty.named_children():
        if getattr(backbone, name, None) is None:
            setattr(backbone, name, child)
    for name, _ in list(backbone.named_children()):
        if getattr(empty, name, None) is None:
            setattr(backbone, name, None)  # a pooler that this head does not read would never be trained
    setattr(shell, prefix, backbone)
    generator = torch.Generator().manual_seed(seed)
    std = getattr(config.get_text_config(), "initializer_range", 0.02)
    for name in head_modules(shell):
        module = shell.get_submodule(name)
        if any(parameter.is_meta for parameter in module.parameters()):
            _start(module, std, generator)
            shell.set_submodule(name, module.to(model.device, model.dtype))
        shell.get_submodule(name).register_forward_pre_hook(_in_own_type)
    return shell


def head_modules(model: Any) -> tuple[str, ...]:
    """The names of a classification model's parts that are trained and saved whole: all outside its backbone, and the
    backbone's pooler, which only such a head reads."""
    prefix = model.base_model_prefix
    names = [name for name, _ in model.named_children() if name != prefix]
    if getattr(getattr(model, prefix), "pooler", None) is not None:
        names.append(f"{prefix}.pooler")
    return tuple(name for name in names if any(True for _ in model.get_submodule(name).parameters()))


def _in_own_type(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A head is trained in float32 on a backbone that may be in bfloat16."""
    import torch

    dtype = next(module.parameters()).dtype
    return tuple(
        one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs
    )


def _start(module: Any, std: float, generator: Any) -> None:
    import torch

    module.to_empty(device="cpu").float()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, 0.0, std, generator=generator)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
        elif parameters := list(layer.parameters(recurse=False)):
            if not hasattr(layer, "reset_parameters"):
                raise ModelError(
                    f"The head has a {type(layer).__name__} with {len(parameters)} parameters, whose start is not known."
                )
            layer.reset_parameters()  # norms: weights 1, biases 0
