"""A byte-level BPE tokenizer in the fields of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.errors import ExportError

_OTHER = "give --llama-cpp, whose converter knows more tokenizers"
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_CONTROL, _USER_DEFINED, _UNUSED, _NORMAL = 3, 4, 5, 1  # gguf.TokenType


def pre_tokenizer(raw: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json splits text before its merges; it keeps the patterns to itself.

    Raises ExportError for what is no byte-level BPE, or splits in a way that has no name here.
    """
    model = raw["model"]
    byte_level = (raw.get("decoder") or {}).get("type") == "ByteLevel"
    if model["type"] != "BPE" or not byte_level or model.get("byte_fallback"):
        raise ExportError(
            f"GGUF is written here for byte-level BPE tokenizers, and this one is {model['type']}; {_OTHER}."
        )
    pre = raw["pre_tokenizer"] or {}
    steps = pre.get("pretokenizers", [pre])
    found = _named(steps)
    normalizer = (raw.get("normalizer") or {}).get("type")
    if found is None or (normalizer and (found, normalizer) != ("qwen2", "NFC")):
        shown = ", ".join(step.get("type", "none") for step in steps)
        raise ExportError(
            f"The tokenizer prepares text ({normalizer or 'as it is'}) and splits it ({shown}) in a way whose name in "
            f"llama.cpp is not known here; {_OTHER}."
        )
    if bool(model.get("ignore_merges")) != (found == "llama-bpe"):
        raise ExportError(
            f"The tokenizer has ignore_merges={bool(model.get('ignore_merges'))}, and llama.cpp does the opposite for "
            f"{found}; such a file would give other tokens."
        )
    return found


def _named(steps: Sequence[dict[str, Any]]) -> str | None:
    *first, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):  # GPT-2's own pattern
        if not first:
            return "gpt-2"
        digits = [step for step in first if step["type"] == "Digits" and step.get("individual_digits")]
        return "smollm" if len(digits) == len(first) == 1 else None
    if len(first) == 1 and first[0]["type"] == "Split" and first[0].get("behavior") == "Isolated":
        pattern = first[0]["pattern"].get("Regex")
        return {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}.get(pattern)
    return None


def add_tokenizer(writer: Any, tokenizer: Any, rows: int, stops: Sequence[int]) -> None:
    """Tokens, merges, special ids and the chat template.

    rows: of the model's embedding; a resized one may have more than there are tokens. stops: ids that end an answer.
    """
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(raw))
    tokens, kinds = _tokens(tokenizer, rows)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = raw["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    for name, number in ids.items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(int(number))
    if others := [one for one in stops if one != ids["eos"]]:
        writer.add_eot_token_id(others[0])
    begins = tokenizer("a")["input_ids"][:1] == [ids["bos"]]
    writer.add_add_bos_token(begins)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def _tokens(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(vocabulary) >= rows:
        raise ExportError(
            f"The tokenizer has {max(vocabulary) + 1} tokens and the model {rows} embeddings; resize the model's to hold "
            "them all before training."
        )
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(rows):
        token = vocabulary.get(number)
        if token is None:
            token, kind = f"[PAD{number}]", _UNUSED
        elif number in added:
            kind = _CONTROL if added[number].special else _USER_DEFINED
        else:
            kind = _NORMAL
        tokens.append(token)
        kinds.append(kind)
    return tokens, kinds
