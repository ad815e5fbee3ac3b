"""Run as a script in a process of its own: reads an export as anybody would, without posttrain and without a network.

    python -P read_back.py TASK.json

TASK.json: {"kind": "folder" | "adapter" | "gguf", "folder", "cases", "tokens": most that the model is asked for,
"classifies", "answers": {reader: file}}; of a folder and an adapter "auto", a class of transformers; of an adapter "base",
"labels", "quantised"; of GGUF "file", "config", "texts". Writes each reader's logits of the cases into its file, and prints
{"ids": [[...]], "padded_difference": of a padded batch from single rows, "chat_template"} as the last line.

# T tokens, V vocabulary, classes or tags
"""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any


def main(task: dict[str, Any]) -> dict[str, Any]:
    """What stdout's last line says."""
    _close_network()
    if task["kind"] == "gguf":
        return _gguf(task)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task["folder"], local_files_only=True, trust_remote_code=False)
    model = _adapted(task) if task["kind"] == "adapter" else _auto(task, task["folder"])
    ids = [_encode(tokenizer, case) for case in task["cases"]]
    answers = [_ask(model, row[: task["tokens"]]) for row in ids]
    _write(task["answers"]["plain"], answers)
    return {"ids": ids, **_padded(model, tokenizer, task, ids, answers)}


def _close_network() -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("an export is read back without a network")

    socket.socket.connect = refuse  # type: ignore[method-assign]


def _auto(task: dict[str, Any], folder: str, **more: Any) -> Any:
    import torch
    import transformers

    cls = getattr(transformers, task["auto"])
    if task["kind"] == "adapter" and task["labels"]:
        more["num_labels"] = task["labels"]
    return cls.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **more,
    ).eval()


def _adapted(task: dict[str, Any]) -> Any:
    import torch
    from peft import PeftModel

    more: dict[str, Any] = {}
    if task["quantised"]:
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if task["quantised"] == "int8"
            else BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.float32,
            )
        )  # fmt: skip
    base = _auto(task, task["base"], **more)
    for module in base.modules():
        if hasattr(
            module, "support_avx512bf16_for_cpu"
        ):  # bitsandbytes would compute in bfloat16 on some CPUs
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(base, task["folder"]).eval()


def _encode(tokenizer: Any, case: dict[str, Any]) -> list[int]:
    if "chat" in case:
        text = tokenizer.apply_chat_template(case["chat"], tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(case["text"], add_special_tokens=case["special"])["input_ids"])


def _ask(model: Any, ids: list[int]) -> Any:
    """(T, V) logits, or (V,) scores."""
    import torch

    row = torch.tensor([ids])
    more = {"decoder_input_ids": row} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        values = model(input_ids=row, attention_mask=torch.ones_like(row), **more).logits[0].float().cpu()
    return values[-len(ids) :] if values.dim() == 2 else values


def _padded(
    model: Any, tokenizer: Any, task: dict[str, Any], ids: list[list[int]], answers: list[Any]
) -> dict[str, float]:
    """Classifiers are asked in batches: with the wrong pad token the shorter rows get another score."""
    import torch

    whole = [len(row) <= task["tokens"] for row in ids]
    places = [i for i, case in enumerate(task["cases"]) if case.get("special") and whole[i]]
    if not task["classifies"] or task["kind"] == "adapter" or len(places) < 2:
        return {}
    texts = [task["cases"][i]["text"] for i in places]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    worst = 0.0
    for place, row, mask in zip(places, rows, batch["attention_mask"], strict=True):
        row = row[mask.bool()] if row.dim() == 2 else row
        worst = max(worst, float((row - answers[place][: len(row)]).abs().max()))
    return {"padded_difference": worst}


def _write(path: str, answers: list[Any]) -> None:
    from safetensors.torch import save_file

    save_file({str(i): one.contiguous() for i, one in enumerate(answers)}, path)


def _gguf(task: dict[str, Any]) -> dict[str, Any]:
    """The file by gguf's own reader and dequantisation; and by transformers' loader, where that knows the model."""
    from gguf import GGUFReader

    path = Path(task["folder"]) / task["file"]
    reader = GGUFReader(str(path))
    tokenizer = _tokenizer_of(reader)
    ids = [_encode_raw(tokenizer, reader, task, i, case) for i, case in enumerate(task["cases"])]
    asked = [row[: task["tokens"]] for row in ids]
    if "plain" in task["answers"]:
        model = _model_of(reader, task["config"])
        _write(task["answers"]["plain"], [_ask(model, row) for row in asked])
        del model
    if "transformers_gguf" in task["answers"]:
        import torch
        from transformers import AutoModelForCausalLM, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        ).eval()
        _write(task["answers"]["transformers_gguf"], [_ask(model, row) for row in asked])
    return {"ids": ids, "chat_template": _text(reader, "tokenizer.chat_template")}


def _model_of(reader: Any, config_folder: str) -> Any:
    """A plain transformers model with the file's dequantised weights."""
    import torch
    from gguf import MODEL_ARCH_NAMES, dequantize, get_tensor_name_map
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(config_folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
    kind = _text(reader, "general.architecture")
    arch = next(one for one, name in MODEL_ARCH_NAMES.items() if name == kind)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    held = {tensor.name: tensor for tensor in reader.tensors}
    left = set(held) - {"rope_freqs.weight"}
    state = model.state_dict()
    for name, parameter in state.items():
        stem, _, leaf = name.rpartition(".")
        wanted = f"{names.get_name(stem)}.{leaf}"
        if wanted not in held and config.tie_word_embeddings and name == "lm_head.weight":
            continue
        values = torch.from_numpy(dequantize(held[wanted].data, held[wanted].tensor_type).copy()).float()
        if kind == "llama" and re.search(r"attn_[qk]\.", wanted):
            heads = config.num_attention_heads if "attn_q" in wanted else config.num_key_value_heads
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = pairs.transpose(1, 2).reshape(values.shape)
        if values.shape != parameter.shape:
            raise ValueError(f"{wanted} is {tuple(values.shape)} and {name} is {tuple(parameter.shape)}")
        parameter.copy_(values)
        left.discard(wanted)
    if left:
        raise ValueError(f"the file has tensors that the model has not: {sorted(left)[:3]}")
    if "rope_freqs.weight" in held:
        _check_rope(model, held["rope_freqs.weight"].data)
    model.tie_weights()
    return model


def _check_rope(model: Any, factors: Any) -> None:
    """llama.cpp divides each frequency by its factor; that must give transformers' frequencies."""
    import torch

    config = model.config
    rope = config.rope_parameters
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    if not torch.allclose(
        plain / torch.from_numpy(factors.copy()), model.model.rotary_emb.inv_freq, rtol=1e-4
    ):
        raise ValueError("rope_freqs.weight is not what the model's rotary embedding computes")


# What llama.cpp does for these names (src/llama-vocab.cpp), as patterns that `tokenizers` splits by.
_CASED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPLITS = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_CASED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL,),
    "qwen2": (_CASED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,),
}
_CONTROL, _USER_DEFINED = 3, 4


def _tokenizer_of(reader: Any) -> Any:
    """A byte-level BPE made of nothing but the file's fields; None for another kind of tokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    pre = _text(reader, "tokenizer.ggml.pre")
    if _text(reader, "tokenizer.ggml.model") != "gpt2" or pre not in _SPLITS:
        return None
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(one.split(" ")) for one in reader.fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(one), "isolated") for one in _SPLITS[pre]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [
            AddedToken(t, special=special, normalized=False)
            for t, k in zip(tokens, kinds, strict=True)
            if k == kind
        ]
        if added:
            (made.add_special_tokens if special else made.add_tokens)(added)
    return made


def _encode_raw(
    tokenizer: Any, reader: Any, task: dict[str, Any], place: int, case: dict[str, Any]
) -> list[int]:
    """The ids that llama.cpp makes of the text: its BOS where the file says so. Chats come rendered."""
    if tokenizer is None:  # no reader of our own: transformers' reading of the file
        from transformers import AutoTokenizer

        held = AutoTokenizer.from_pretrained(task["folder"], gguf_file=task["file"], trust_remote_code=False)
        return list(held(task["texts"][place], add_special_tokens=bool(case.get("special")))["input_ids"])
    ids = list(tokenizer.encode(task["texts"][place], add_special_tokens=False).ids)
    begins = reader.fields.get("tokenizer.ggml.add_bos_token")
    if case.get("special") and begins is not None and begins.contents():
        ids.insert(0, int(reader.fields["tokenizer.ggml.bos_token_id"].contents()))
    return ids


def _text(reader: Any, name: str) -> str | None:
    field = reader.fields.get(name)
    return None if field is None else str(field.contents())


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text("utf-8")))))
