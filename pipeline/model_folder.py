"""Whether a folder is a model, told from its files in milliseconds, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ModelError

from .safetensors_header import fault_of

Head = Literal["causal_lm", "reward", "masked_lm", "seq2seq_lm", "classifier", "token_classifier"]
KINDS: Mapping[Head, str] = {
    "causal_lm": "a causal language model",
    "reward": "a reward model",
    "masked_lm": "an encoder",
    "seq2seq_lm": "a sequence-to-sequence model",
    "classifier": "a reward model or classifier",
    "token_classifier": "a token classifier",
}
_SEQUENCE_TO_SEQUENCE = (
    "ForConditionalGeneration",
    "WithLMHeadModel",
)  # vision models have the first one, too
_ENCODERS = ("ForMaskedLM", "ForPreTraining", "Model")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def head_of(config: Mapping[str, Any]) -> Head | None:
    """What a model of this config.json is, by its architecture; None for what no stage can start from.

    A config that names no architecture is taken for a causal language model's.
    """
    name = str((config.get("architectures") or ["ForCausalLM"])[0])
    if "ForCausalLM" in name:
        return "causal_lm"
    if "ForSequenceClassification" in name:
        return "classifier"
    if "ForTokenClassification" in name:
        return "token_classifier"
    if config.get("is_encoder_decoder"):
        return "seq2seq_lm" if name.endswith(_SEQUENCE_TO_SEQUENCE) else None
    return "masked_lm" if name.endswith(_ENCODERS) and not name.endswith("LMHeadModel") else None


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises ModelError when there is none, or it is no JSON."""
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        hint = (
            "it is an adapter; give its base"
            if (folder / "adapter_config.json").is_file()
            else "give a model"
        )
        raise ModelError(f"The folder {folder} is no model: it has no config.json (found: {found}); {hint}.")
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}")
        return found
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{folder / 'config.json'} is no JSON object ({str(error)[:100]}); fetch it again."
        ) from error


def check_model_folder(folder: Path, *, reward: bool = False) -> None:
    """Raises ModelError when the folder cannot be a model, its weights in safetensors, its tokenizer.

    reward: it must be one that scores sequences.
    """
    config = read_config(folder)
    if kernel := _kernel_in(config):
        raise ModelError(
            f"{folder / 'config.json'} asks for {kernel[:100]!r}, a kernel of the Hub, which is code and would be run; "
            "take that line out of it."
        )
    head = head_of(config)
    if head is None or (reward and head != "classifier"):
        what = f"a {config['architectures'][0]}" if head is None else KINDS[head]
        wanted = "a reward model" if reward else "a language model, an encoder or a classifier"
        raise ModelError(f"The model in {folder} is {what}; {wanted} is needed here.")
    weights = sorted(folder.glob("*.safetensors"))
    for file in weights:
        if fault := fault_of(file):
            raise ModelError(f"{file} {fault}")
    _check_index(folder)
    if not weights:
        pickles = ", ".join(
            path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)
        )
        raise ModelError(
            f"The folder {folder} has no *.safetensors"
            + (
                f" and {pickles} is a pickle, which can run code; convert it to safetensors first."
                if pickles
                else "."
            )
        )
    _check_tokenizer(folder)


def _kernel_in(config: Any) -> str | None:
    """The first `attn_implementation`, or alike, that is no name of transformers' own but a repository."""
    found = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for key, value in config.items() if isinstance(config, dict) else ():
        if "implementation" in str(key) and "/" in str(value):
            return str(value)
    return next((kernel for one in found if (kernel := _kernel_in(one))), None)


def _check_index(folder: Path) -> None:
    """The list of a model's weight files names files of its own folder."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = {str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index} is no list of weight files ({type(error).__name__}); fetch it again."
        ) from None
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ModelError(
                f"{index} names {name[:200]!r}, which is no safetensors file of its folder; fetch it again."
            )


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ModelError(
            f"The model in {folder} has no tokenizer (none of {', '.join(_VOCABULARIES)}); copy the tokenizer files of "
            "the model it was made from into it."
        )
