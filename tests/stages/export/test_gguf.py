"""GGUF files: each kind of model and tokenizer that is written here, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain import Export, LoRA, Pipeline, Run
from posttrain.errors import ExportError, ExportMismatchError
from posttrain.pipeline.base_models import load_tokenizer
from posttrain.stages.export import gguf_file, work
from posttrain.stages.export.gguf_tokenizer import _tokens, pre_tokenizer
from posttrain.stages.export.source import source_of
from posttrain.stages.export.work import export_model
from tests.stages.export.conftest import quiet
from tests.stages.export.made import ShakenSFT, language_model, tokenizer_of

ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}  # fmt: skip
# kind, pre-tokenizer, dtype, settings of the model, whether transformers' own loader reads such a file
MODELS: list[Any] = [
    ("Llama", "llama-bpe", "q8_0", {"tie_word_embeddings": True}, True),
    ("Qwen3", "qwen2", "f16", {"head_dim": 32, "tie_word_embeddings": True, "vocab_size": 400}, False),
    pytest.param("Qwen2", "qwen2", "f32", {}, True, marks=pytest.mark.slow),
    pytest.param("Llama", "llama-bpe", "f32", {"rope_parameters": ROPE}, False, marks=pytest.mark.slow),
    pytest.param("Llama", "smollm", "f32", {"attention_bias": True, "mlp_bias": True}, False, marks=pytest.mark.slow),
    pytest.param("Qwen3", "qwen2", "q8_0", {"head_dim": 128}, True, marks=pytest.mark.slow),
    pytest.param("Qwen2", "qwen2", "q8_0", {"tie_word_embeddings": True}, True, marks=pytest.mark.slow),
]  # fmt: skip


def trained(base: Path, folder: Path) -> Run:
    return Pipeline([ShakenSFT(LoRA(r=2), name="sft")], model=base, run_dir=folder).run()


@pytest.mark.parametrize(("kind", "pre", "dtype", "settings", "loads"), MODELS)
def test_a_model_survives(
    same_process: None, tmp_path: Path, kind: str, pre: str, dtype: str, settings: dict[str, Any], loads: bool
) -> None:
    run = trained(language_model(tmp_path / "base", kind, pre, **settings), tmp_path / "run")
    done = export_model(Export("gguf", dtype=dtype), source_of(run, run.model), tmp_path / "out", quiet)
    golden = done.facts["golden"]
    assert set(golden["read_back"]) == ({"plain", "transformers_gguf"} if loads else {"plain"})
    assert max(golden["read_back"].values()) < 1e-4
    assert golden["drift"] < {"f32": 1e-9, "f16": 1e-5, "q8_0": 1e-2}[dtype]


def test_what_the_file_says(same_process: None, tmp_path: Path) -> None:
    from gguf import GGUFReader

    run = trained(language_model(tmp_path / "base", "Llama", "llama-bpe", vocab_size=400), tmp_path / "run")
    export_model(Export("gguf"), source_of(run, run.model), tmp_path / "out", quiet)
    tokenizer = load_tokenizer(tmp_path / "base")
    reader = GGUFReader(str(tmp_path / "out" / "model.gguf"))

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    assert len(tokens) == field("llama.vocab_size") == 400
    assert tokens[len(tokenizer) :] == [f"[PAD{i}]" for i in range(len(tokenizer), 400)]
    assert kinds[tokenizer.convert_tokens_to_ids("<|eot_id|>")] == 3  # control
    assert kinds[tokenizer.convert_tokens_to_ids("<think>")] == 4  # added, not special
    assert field("tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    # the template ends answers with another token than the tokenizer's end token
    assert field("tokenizer.ggml.eot_token_id") == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert field("tokenizer.ggml.add_bos_token") is True
    assert field("tokenizer.chat_template") == tokenizer.chat_template
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.attn_norm.weight"] == "F32"


def test_rows_of_a_head_become_neighbours() -> None:
    import numpy as np

    # one head of width 4: transformers rotates rows (0, 2) and (1, 3), llama.cpp (0, 1) and (2, 3)
    assert gguf_file.paired(np.arange(4)[:, None], 1)[:, 0].tolist() == [0, 2, 1, 3]


def test_a_file_with_unpaired_heads_is_found(
    lora_run: Run, same_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "paired", lambda rows, heads: rows)
    with pytest.raises(ExportMismatchError, match="differs from what was written"):
        export_model(Export("gguf"), source_of(lora_run, lora_run.model), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_with_another_template_is_found(
    lora_run: Run, same_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda *_: None)
    with pytest.raises(ExportMismatchError, match="another chat template"):
        export_model(Export("gguf"), source_of(lora_run, lora_run.model), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused(tmp_path: Path) -> None:
    base = language_model(tmp_path / "base", "Mistral")
    run = trained(base, tmp_path / "run")
    with pytest.raises(
        ExportError, match=r"llama, qwen2, qwen3, and it is of type mistral; give --llama-cpp"
    ):
        export_model(Export("gguf"), source_of(run, run.model), tmp_path / "out", quiet)
    assert gguf_file.why_no_gguf({"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4}})
    assert gguf_file.why_no_gguf({"model_type": "qwen2", "use_sliding_window": True})
    assert gguf_file.why_no_gguf({"model_type": "qwen2"}) is None


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_the_pre_tokenizer_is_told_from_its_steps(pre: str) -> None:
    assert pre_tokenizer(json.loads(tokenizer_of(pre).backend_tokenizer.to_str())) == pre


def test_a_pre_tokenizer_without_a_name_is_refused() -> None:
    raw = json.loads(tokenizer_of("qwen2").backend_tokenizer.to_str())
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    with pytest.raises(ExportError, match=r"splits it \(Split, ByteLevel\)"):
        pre_tokenizer(raw)
    raw = json.loads(tokenizer_of("llama-bpe").backend_tokenizer.to_str())
    raw["model"]["ignore_merges"] = False
    with pytest.raises(ExportError, match="ignore_merges"):
        pre_tokenizer(raw)
    with pytest.raises(ExportError, match="WordLevel"):
        pre_tokenizer({"model": {"type": "WordLevel"}})


def test_a_vocabulary_that_is_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ExportError, match="tokens and the model 300 embeddings"):
        _tokens(tokenizer_of("gpt-2"), 300)


def test_transformers_is_asked_only_what_it_reads() -> None:
    from transformers import LlamaConfig, Qwen3Config

    assert work._transformers_reads(LlamaConfig())
    assert not work._transformers_reads(LlamaConfig(attention_bias=True))
    assert not work._transformers_reads(Qwen3Config(head_dim=32))
