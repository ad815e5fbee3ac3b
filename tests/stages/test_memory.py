"""The estimate's terms against what PyTorch really keeps, and the refusal of what cannot fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from posttrain import CPT, DPO, PPO, SFT, AdaLoRA, Freeze, Full, LoRA, Pipeline, QLoRA, RewardModel
from posttrain.errors import NotEnoughMemoryError
from posttrain.stages.fitting import nearest_change
from posttrain.stages.machine import Machine
from posttrain.stages.memory import MemoryEstimate, estimate
from posttrain.stages.sizes import sizes_of

Rows = dict[str, list[dict[str, Any]]]
CPU = Machine(on_gpu=False, bf16=False, memory_bytes=16 * 10**9)
GPU = Machine(on_gpu=True, bf16=True, memory_bytes=24 * 2**30)
BATCH, TOKENS = 2, 48


def config_folder(tmp_path: Any, kind: str, **more: Any) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        kind, vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, **more,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    return tmp_path


def kept_bytes(folder: Any, strategy: Any, bf16: bool) -> int:
    """Bytes of all tensors that autograd saves in a forward pass through the layers, each storage once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if bf16 and not strategy.capabilities.makes_base else torch.float32
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).to(dtype).requires_grad_(False)
    wrapped = strategy.wrap(model, "policy", 0).train()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    weights = {p.untyped_storage().data_ptr() for p in wrapped.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in wrapped.buffers()}
    ids = torch.randint(1, 300, (BATCH, TOKENS))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    saved: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("strategy", "allowed"),
    [
        (LoRA(r=8), 0.03),
        (LoRA(r=8, target_modules=("q_proj", "v_proj")), 0.03),
        (LoRA(r=8, dropout=0.1), 0.03),
        (Full(), 0.06),  # its 16-bit output projection reads what the attention already keeps
        (Freeze(layers=1), 0.06),
        (AdaLoRA(r=8, target_r=4), 0.06),
    ],
    ids=lambda value: str(value) if not isinstance(value, float) else "",
)
def test_kept_activations_are_those_that_autograd_saves(
    tmp_path: Any, kind: str, bf16: bool, strategy: Any, allowed: float
) -> None:
    if isinstance(strategy, AdaLoRA):
        strategy = _Started(r=8, target_r=4)
    folder = config_folder(tmp_path, kind, **({"head_dim": 16} if kind == "qwen3" else {}))
    stage = SFT(strategy, batch_size=BATCH)
    machine = replace(CPU, bf16=bf16)
    found = estimate(stage, sizes_of(stage, folder), TOKENS, False, machine)
    real = kept_bytes(folder, strategy, bf16)
    head = 3 * BATCH * TOKENS * 64 * 4  # the last norm and the head, which this forward pass leaves out
    assert found.activations - head == pytest.approx(real, rel=allowed, abs=head)


class _Started(AdaLoRA):
    """Wrapped without knowing its steps."""


def parts(stage: Any, folder: Any, length: int = 64, checkpointing: bool = False, machine: Machine = CPU) -> MemoryEstimate:
    return estimate(stage, sizes_of(stage, folder), length, checkpointing, machine)


def test_what_is_trained_has_gradients_and_moments(tmp_path: Any) -> None:
    folder = config_folder(tmp_path, "llama")
    stage = SFT(Full(), gradient_accumulation=2)
    sizes, found = sizes_of(stage, folder), parts(stage, folder)
    assert sizes.trainable == sizes.total
    assert (found.weights, found.gradients, found.optimizer) == (4 * sizes.total, 4 * sizes.total, 8 * sizes.total)
    assert parts(SFT(Full()), folder).gradients == 0  # they come as activations go
    eight_bit = SFT(Full(), trainer_args={"optim": "paged_adamw_8bit"})
    assert parts(eight_bit, folder).optimizer == 2 * sizes.total
    two = parts(DPO(Full()), folder)
    assert two.weights == 2 * 0 + found.weights  # placeholder


def test_four_bits_are_half_a_byte_and_their_scales() -> None:
    lora, four = SFT(LoRA(r=16)), SFT(QLoRA(r=16))
    sizes = sizes_of(lora, "7B")
    assert sizes.total - sizes.trainable == 6_738_415_616  # Llama 2 7B
    assert sizes.linear == 6_476_005_376 and sizes.vocabulary * sizes.hidden == 131_072_000
    assert parts(lora, "7B", machine=GPU).weights == 2 * 6_738_415_616
    kept = 2 * (2 * 131_072_000 + 65 * 4096 + sizes.largest)
    assert parts(four, "7B", machine=GPU).weights == pytest.approx(kept + 6_476_005_376 * 0.516, rel=1e-4)
