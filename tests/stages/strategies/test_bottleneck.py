"""The bottleneck adapter: its formula, its places, and that PEFT treats it as one of its own kinds."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import DPO, GRPO, PPO, SFT, Adapter, LoRA, Pipeline
from posttrain.errors import PipelineError, SettingError, StrategyError
from posttrain.pipeline import ModelRef
from posttrain.pipeline.adapters import BOTTLENECK, kind_of, read_adapter
from posttrain.stages.evaluation import logits
from tests.stages.words import lengths

Rows = list[dict[str, Any]]
QUICK: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "learning_rate": 3e-3, "max_length": 128}


def tiny_model() -> Any:
    return ModelRef.of_base("tiny-random").load_model().requires_grad_(False)


def trained(strategy: Adapter) -> Any:
    """Wrapped, with weights that do something."""
    model = strategy.wrap(tiny_model(), "policy", 0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", torch.relu), ("gelu", torch.nn.functional.gelu), ("silu", torch.nn.functional.silu)],
)
def test_the_formula_by_hand(activation: Any, function: Any) -> None:
    model = trained(Adapter(bottleneck=5, activation=activation))
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    x = torch.randn(2, 3, layer.base_layer.in_features)
    h = x @ layer.base_layer.weight.T
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    expected = h + function(h @ down.weight.T + down.bias) @ up.weight.T + up.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_it_stands_before_the_residual_is_added() -> None:
    """Houlsby's place: what leaves the attention block goes through it, the stream beside it does not."""
    model = trained(Adapter(bottleneck=4, after="attention", layers=[1]))
    seen: dict[str, torch.Tensor] = {}
    block = model.get_base_model().model.layers[1]
    block.self_attn.o_proj.register_forward_hook(lambda _, __, out: seen.update(adapted=out))
    block.register_forward_pre_hook(lambda _, given: seen.update(stream=given[0]))
    block.post_attention_layernorm.register_forward_pre_hook(lambda _, given: seen.update(after=given[0]))
    model(torch.tensor([[5, 6, 7]]))
    assert torch.equal(seen["after"], seen["stream"] + seen["adapted"])


def test_the_start_is_the_model_itself_and_off_it_is_again() -> None:
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        base = tiny_model()(ids).logits
        fresh = Adapter(bottleneck=8).wrap(tiny_model(), "policy", 0).eval()
        assert torch.equal(fresh(ids).logits, base)
        model = trained(Adapter(bottleneck=8))
        assert float((model(ids).logits - base).abs().max()) > 0.1
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, base)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "bottleneck_" in n
    }


def test_several_of_them_are_switched_and_stand_behind_each_other(tmp_path: Path) -> None:
    ids = torch.tensor([[5, 9, 300, 17]])
    one = trained(Adapter(bottleneck=8))
    one.save_pretrained(tmp_path)
    assert kind_of(tmp_path) == BOTTLENECK
    model = read_adapter(tiny_model(), tmp_path).eval()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.add_adapter("other", model.peft_config["default"])
    with torch.no_grad():
        expected, base = one(ids).logits, tiny_model()(ids).logits
        assert torch.equal(model(ids).logits, expected)
        model.base_model.set_adapter(["default", "other"])  # the other still changes nothing
        assert torch.equal(model(ids).logits, expected)
        model.set_adapter("other")
        assert torch.equal(model(ids).logits, base)
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trainable and all(".other." in name for name in trainable)
        model.delete_adapter("other")
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 4),
        ({"after": "attention"}, 2),
        ({"after": ("feedforward",)}, 2),
        ({"after": "feedforward", "layers": [1]}, 1),
        ({"target_modules": ["q_proj"]}, 2),
    ],
)
def test_places_and_count(settings: dict[str, Any], count: int) -> None:
    model = Adapter(bottleneck=8, **settings).wrap(tiny_model(), "policy", 0)
    width = 128
    expected = count * (2 * 8 * width + 8 + width)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "after", "count"),
    [
        ("GPT2", {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50}, "attention", 2),
        ("GPT2", {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50}, "feedforward", 2),
        ("GPTNeoX", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50,
                     "intermediate_size": 32}, ("attention", "feedforward"), 4),
        ("OPT", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50, "ffn_dim": 32,
                 "word_embed_proj_dim": 16}, ("attention", "feedforward"), 4),
        ("Bert", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50,
                  "intermediate_size": 32, "is_decoder": True}, "attention", 2),
        ("Bert", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50,
                  "intermediate_size": 32, "is_decoder": True}, "feedforward", 2),
        ("Falcon", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50,
                    "ffn_hidden_size": 32}, ("attention", "feedforward"), 4),
        ("Phi", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50,
                 "intermediate_size": 32}, ("attention", "feedforward"), 4),
        ("Qwen2", {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
                   "vocab_size": 50, "intermediate_size": 32}, ("attention", "feedforward"), 4),
    ],
)  # fmt: skip
def test_other_architectures(kind: str, settings: dict[str, Any], after: Any, count: int) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        base = model(ids).logits
        wrapped = Adapter(bottleneck=4, after=after).wrap(model, "policy", 0).eval()
        assert torch.equal(wrapped(ids).logits, base)
    assert len(wrapped.base_model.targeted_module_names) == count
    wrapped(ids).logits.sum().backward()
    ups = [p for n, p in wrapped.named_parameters() if "bottleneck_up" in n and n.endswith("weight")]
    assert len(ups) == count and all(float(p.grad.abs().max()) > 0 for p in ups)


def test_t5_has_three_kinds_of_blocks() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    names = Adapter().find_targets(model)
    assert len(names) == 2 * 2 + 2 * 3  # two encoder layers of two blocks, two decoder layers of three


def test_ppo_roles_share_one_base_with_bottlenecks(words: Callable[..., Pipeline], prompts: Rows) -> None:
    stage = PPO(Adapter(bottleneck=8), data=prompts, reward=lengths, max_steps=3, batch_size=16, max_length=32,
                max_new_tokens=20, learning_rate=1e-2, trainer_args={"stop_kl": 10.0})  # fmt: skip
    record = words([stage]).run()["ppo"]
    assert record.proofs["copies_of_the_base"] == 1
    assert record.proofs["reference_difference_nats"] < 1e-5
    assert record.history[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert record.metrics["kl_after"] != 0.0


def test_grpo_goes_on_with_the_adapter_of_another_stage(
    words: Callable[..., Pipeline], prompts: Rows
) -> None:
    """The reference is then a second adapter, a frozen copy."""
    chats = [{"messages": [{"role": "user", "content": row["prompt"]},
                           {"role": "assistant", "content": "river"}]} for row in prompts]  # fmt: skip
    strategy = Adapter(bottleneck=8)
    chain = [
        SFT(strategy, data=chats, max_steps=3, batch_size=8, learning_rate=1e-2, max_length=32),
        GRPO(strategy, data=prompts, reward=lengths, handover="continue", max_length=32, max_new_tokens=4, batch_size=8,
             num_generations=4, max_steps=2, learning_rate=1e-2, beta=0.05),
    ]  # fmt: skip
    record = words(chain).run()["grpo"]
    assert record.proofs["reference_difference_nats"] < 1e-5
    assert record.metrics["kl_after"] != 0.0


def test_nothing_else_can_follow_it(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    first = SFT(Adapter(bottleneck=4), data=rows["chat"], **QUICK)
    with pytest.raises(
        StrategyError, match="what Adapter trains cannot be merged into the model; continue it"
    ):
        tiny([first, DPO(LoRA(r=2), data=rows["pairs"], **QUICK)])
    run = tiny([first]).run()
    model, _ = run.model.load()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(PipelineError, match="whose kind cannot be merged"):
        Pipeline([SFT(LoRA(r=2), data=rows["chat"])], model=run.model)


def test_another_process_reads_the_same_model(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    """There nobody has made the kind known to PEFT yet."""
    run = tiny([SFT(Adapter(bottleneck=4), data=rows["chat"], **QUICK)]).run()
    code = (
        "import json, sys; from posttrain import Pipeline\n"
        "from posttrain.stages.evaluation import logits\n"
        "model, _ = Pipeline.load(sys.argv[1]).model.load()\n"
        "print(json.dumps(logits(model, [[5, 9, 300]], 0).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).resolve().parents[3])  # fmt: skip
    model, _ = run.model.load()
    read = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert torch.equal(read, logits(model, [[5, 9, 300]], 0))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bottleneck": 0}, "bottleneck must be a whole number at least 1"),
        ({"bottleneck": None}, "bottleneck must be a number"),
        ({"dropout": 1.0}, "dropout must be a number at least 0 and below 1"),
        ({"activation": "tanh"}, "activation must be one of 'relu', 'gelu', 'silu'"),
        ({"after": ("nowhere",)}, "after must be 'attention', 'feedforward', or a list of both"),
        ({"after": ()}, "after must be"),
        ({"layers": []}, "layers must be a list of layer numbers"),
        ({"layers": [-1]}, "layers must be a list of layer numbers"),
        ({"target_modules": "o_proj"}, "target_modules must be a list of layer names"),
        ({"target_modules": ["lm_head"]}, "lm_head is the head"),
    ],
)
def test_refused_when_it_is_written(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text) as caught:
        Adapter(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target_modules": ["nothing"]}, r"Adapter\(target_modules=\['nothing'\]\): .* it has mlp.down_proj"),
        ({"layers": [7]}, r"Adapter\(layers=\[7\]\): the model has the layers 0 to 1, so there is no layer 7"),
    ],
)  # fmt: skip
def test_places_that_the_model_has_not(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(StrategyError, match=text) as caught:
        tiny([SFT(Adapter(**settings), data=rows["chat"], **QUICK)]).plan()
    assert "\n" not in str(caught.value)


def test_blocks_of_an_unknown_model_are_named() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))

    with pytest.raises(
        StrategyError, match=r"Adapter\(after='attention'\): Odd has no such layer; it has mixer.0, mixer.1"
    ):
        Adapter().find_targets(Odd())
