"""Whether a folder is a model, told from its files in milliseconds, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ModelError

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
        return dict(json.loads((folder / "config.json").read_text("utf-8")))
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not JSON ({error}).") from error


def check_model_folder(folder: Path, *, reward: bool = False) -> None:
    """Raises ModelError when the folder cannot be a model, its weights in safetensors, its tokenizer.

    reward: it must be one that scores sequences.
    """
    config = read_config(folder)
    head = head_of(config)
    if head is None or (reward and head != "classifier"):
        what = f"a {config['architectures'][0]}" if head is None else KINDS[head]
        wanted = "a reward model" if reward else "a language model, an encoder or a classifier"
        raise ModelError(f"The model in {folder} is {what}; {wanted} is needed here.")
    weights = sorted(folder.glob("*.safetensors"))
    for file in weights:
        _check_weights(file)
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


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ModelError(
            f"The model in {folder} has no tokenizer (none of {', '.join(_VOCABULARIES)}); copy the tokenizer files of "
            "the model it was made from into it."
        )


def _check_weights(file: Path) -> None:
    """The header of a safetensors file is there, and the file is as long as it says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        header = opened.read(length) if 8 + length <= size else b""
    if start == b"version ":
        raise ModelError(f"{file} is a Git LFS pointer, not the weights; fetch them with: git lfs pull")
    if 8 + length + _end_of_data(header) != size:
        raise ModelError(
            f"{file} is damaged or incomplete: its header does not fit its {size:,} bytes; fetch it again."
        )


def _end_of_data(header: bytes) -> float:
    """Bytes of tensors behind the header; NaN, which equals nothing, when it is no header."""
    try:
        return max(
            entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return float("nan")
