"""Whether a folder is a model, told from its files in milliseconds, without torch."""

import json
from pathlib import Path
from typing import Literal

from posttrain.errors import ModelError

Head = Literal["causal_lm", "reward"]
_HEADS = {"causal_lm": "ForCausalLM", "reward": "ForSequenceClassification"}
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def check_model_folder(folder: Path, head: Head = "causal_lm") -> None:
    """Raises ModelError when the folder cannot be a model with that head, its weights in safetensors, its tokenizer."""
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        hint = (
            "it is an adapter; give its base"
            if (folder / "adapter_config.json").is_file()
            else "give a model"
        )
        raise ModelError(f"The folder {folder} is no model: it has no config.json (found: {found}); {hint}.")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not JSON ({error}).") from error
    others = [name for name in config.get("architectures") or [] if _HEADS[head] not in name]
    if others:
        what = "a reward model or classifier" if _HEADS["reward"] in others[0] else f"a {others[0]}"
        wanted = "a causal language model" if head == "causal_lm" else "a reward model"
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
