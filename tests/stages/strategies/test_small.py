"""LNTuning: which layers are norms, what a merged reward model is made of, and sampling from merged weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain import LNTuning, Pipeline, RewardModel
from posttrain.errors import StrategyError
from posttrain.pipeline import ModelRef

Rows = dict[str, list[dict[str, Any]]]


def test_every_norm_is_found_and_nothing_else() -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config

    model = AutoModelForCausalLM.from_config(
        Qwen3Config(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                    vocab_size=50, intermediate_size=32))  # fmt: skip
    names = {name.rsplit(".", 1)[-1] for name in LNTuning().find_targets(model)}
    # PEFT's own table has post_attention_layernorm alone for this model
    assert names == {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"}
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50))
    assert len(LNTuning().find_targets(gpt2)) == 2 * 2 + 1
    with pytest.raises(StrategyError, match="Linear has no normalisation layer"):
        LNTuning().find_targets(torch.nn.Linear(2, 2))


def test_a_merged_reward_model_is_a_plain_one(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    """PEFT leaves the score head in its wrapper."""
    stage = RewardModel(
        LNTuning(), data=rows["pairs"], max_steps=2, batch_size=4, learning_rate=1e-2, max_length=128
    )
    run = tiny([stage]).run()
    assert run.reward_model is not None
    model, _ = run.reward_model.load()
    assert type(model.score) is torch.nn.Linear
    assert not [name for name, module in model.named_modules() if "peft" in type(module).__module__]


def test_weights_are_as_before_after_decoding_with_them_merged() -> None:
    """LN tuning merges by changing places, so putting weights back has to look where they belong."""
    from posttrain.stages.merging import merged

    model = (
        LNTuning()
        .wrap(ModelRef.of_base("tiny-random").load_model().requires_grad_(False), "policy", 0)
        .eval()
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        expected = model(ids).logits
        with merged(model):
            assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(ids).logits, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
