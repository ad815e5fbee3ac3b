"""The GPU's benchmark without a GPU: it counts operations as PyTorch does, and runs from end to end in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize("rank", [0, 16])
def test_operations_are_those_that_pytorch_counts(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from peft import LoraConfig, get_peft_model
    from products import model_flops
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, vocab_size=5000, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear"))
    ids = torch.arange(64)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    counted = counter.get_total_flops()
    ours = model_flops(config.to_dict(), 64, 64, 64, full=not rank, rank=rank)
    # Eager attention computes the pairs that the causal mask hides, too; and nothing goes backwards below the first adapters.
    other_half = 3 * 2 * 64 * 4 * 64 * 2 * 64
    below = 2 * 64 * (128 * 256 + 2 * 128 * 128 + 3 * rank * 128) if rank else 0
    assert ours + other_half - below == pytest.approx(counted, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["8B sft full", "8B sft qlora", "1.7B dpo lora", "1.7B reward lora", "1.7B ppo"]
)
def test_a_work_in_small(tmp_path: Path, name: str) -> None:
    results = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--in-small", "--pairs", "1", "--only", name]
    done = subprocess.run([*command, "--results", str(results)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(results.read_text())[name]
    if name.endswith("ppo"):
        assert found["ours"]["answers_per_second"] > 0
        assert found["ours, shared critic"]["peak_GB"] > 0
        return
    assert found["planned_GB"] > 0
    assert found["posttrain"]["tokens/s"] > 0
    assert found["posttrain"]["loss"] == pytest.approx(found["trl"]["loss"], rel=0.05)  # the same work


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, str(FOLDER / "gpu.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "There is no GPU here; --in-small tries the script on a CPU."
