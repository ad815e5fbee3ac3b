"""LoRA's starts against plain linear algebra, its learning rates, its choice of layers, and its presets."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import DPO, GRPO, PPO, SFT, LoRA, LoRAGA, Pipeline, QLoRA
from posttrain.errors import SettingError, StrategyError
from posttrain.pipeline import ModelRef
from posttrain.pipeline.base_models import find_base
from posttrain.stages.strategies import Schedule
from posttrain.stages.strategies.lora_start import lora_layers

Rows = list[dict[str, Any]]
R = 4
QUERY = "model.layers.0.self_attn.q_proj"


class SomeRows:
    """Two batches of a language model's rows: they begin alike, half of each is untrained, and some end in padding."""

    def batches(self) -> Iterator[Mapping[str, torch.Tensor]]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(2):
            ids = torch.randint(5, 400, (8, 24), generator=draw)
            ids[:, :10] = torch.arange(5, 15)
            mask = torch.ones_like(ids)
            mask[::2, 18:] = 0
            labels = ids.masked_fill(mask == 0, -100)
            labels[:, :12] = -100
            yield {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = model(**batch).loss
        return found


def plain() -> Any:
    return ModelRef.of_base("tiny-random").load_model()


def started(strategy: LoRA) -> tuple[Any, dict[str, Any]]:
    """(the wrapped model where training starts, its LoRA layers by their names in the plain model)."""
    model = strategy.wrap(strategy.prepare_base(plain()), "policy", 0)
    strategy.start(model, SomeRows())
    return model, {name.removeprefix("base_model.model."): layer for name, layer in lora_layers(model)}


def factors(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """s B and A."""
    b, a = (side["default"].weight.detach().double().numpy() for side in (layer.lora_B, layer.lora_A))
    return layer.scaling["default"] * b, a


def same_space(rows: np.ndarray, others: np.ndarray) -> float:
    """Smallest cosine of the principal angles between the spaces that the rows span."""
    left, right = (np.linalg.qr(matrix.T)[0] for matrix in (rows, others))
    return float(np.linalg.svd(left.T @ right, compute_uv=False).min())


@pytest.mark.parametrize("init", ["pissa", "olora", "lora_ga"])
def test_what_the_adapter_starts_with_is_taken_out_of_the_base(init: Any) -> None:
    before = dict(plain().named_modules())
    ids = torch.randint(5, 400, (2, 16), generator=torch.Generator().manual_seed(1))
    logits = plain()(input_ids=ids).logits
    model, layers = started(LoRA(r=R, init=init))
    for name, layer in layers.items():
        b, a = factors(layer)
        assert np.abs(b @ a).max() > 1e-4  # it is not the start of a plain LoRA
        whole = layer.get_base_layer().weight.detach().double().numpy() + b @ a
        assert np.abs(whole - before[name].weight.detach().numpy()).max() < 1e-6
    logits = logits.detach()
    assert float((model(input_ids=ids).logits.detach() - logits).abs().max()) < 1e-4
    with model.disable_adapter():
        assert (
            float((model(input_ids=ids).logits.detach() - logits).abs().max()) > 1e-3
        )  # so the reference is a copy


def test_pissa_is_the_best_low_rank_part_of_the_weight() -> None:
    weight = plain().get_submodule(QUERY).weight.detach().double().numpy()
    u, s, v = np.linalg.svd(weight)
    b, a = factors(started(LoRA(r=R, init="pissa"))[1][QUERY])
    assert np.abs(b @ a - (u[:, :R] * s[:R]) @ v[:R]).max() < 1e-5


def test_olora_is_the_first_part_of_the_qr_decomposition() -> None:
    weight = plain().get_submodule(QUERY).weight.detach().double().numpy()
    layer = started(LoRA(r=R, init="olora"))[1][QUERY]
    q, r = np.linalg.qr(weight)
    b, a = factors(layer)
    assert np.abs(b @ a - layer.scaling["default"] * q[:, :R] @ r[:R]).max() < 1e-5
    assert np.abs(b.T @ b / layer.scaling["default"] ** 2 - np.eye(R)).max() < 1e-5


def test_lora_ga_starts_along_the_gradient_of_the_rows() -> None:
    model, rows = plain(), SomeRows()
    for batch in rows.batches():
        rows.loss(model, batch).backward()
    u, _, v = np.linalg.svd(model.get_submodule(QUERY).weight.grad.double().numpy())
    b, a = factors(started(LoRAGA(r=R))[1][QUERY])
    assert same_space(a, v[:R]) > 0.999
    assert (
        same_space(b.T, u[:, R : 2 * R].T) > 0.98
    )  # by PEFT's randomised SVD: the paper's B takes the next r directions


def test_eva_starts_along_the_inputs_of_the_layers() -> None:
    from transformers import AutoModelForCausalLM

    model, inputs = AutoModelForCausalLM.from_pretrained(find_base("tiny-random").folder), []
    model.get_submodule(QUERY).register_forward_hook(lambda _, given, __: inputs.append(given[0].detach()))
    masks = []
    for batch in SomeRows().batches():
        model(**batch)
        masks.append(batch["labels"] != -100)
    seen = torch.cat([x[mask] for x, mask in zip(inputs, masks, strict=True)]).double().numpy()
    _, _, v = np.linalg.svd(seen, full_matrices=False)
    b, a = factors(started(LoRA(r=R, init="eva"))[1][QUERY])
    assert np.abs(b).max() == 0
    assert same_space(a, v[:R]) > 0.9999


def test_loftq_makes_up_for_the_error_of_four_bits() -> None:
    from bitsandbytes.functional import dequantize_4bit

    weight = plain().get_submodule(QUERY).weight.detach().double().numpy()
    layer = started(QLoRA(r=R, init="loftq"))[1][QUERY]
    base = layer.get_base_layer()
    error = weight - dequantize_4bit(base.weight.data, base.weight.quant_state).double().numpy()
    s = np.linalg.svd(error, compute_uv=False)
    b, a = factors(layer)
    left = np.linalg.norm(error - b @ a)
    assert left == pytest.approx(np.sqrt((s[R:] ** 2).sum()), rel=2e-2)  # the best that rank r can do
    assert left < 0.95 * np.linalg.norm(error)


@pytest.mark.parametrize("variant", [None, "rslora"])
@pytest.mark.parametrize("init", ["pissa", "lora_ga"])
def test_it_is_saved_as_a_lora_on_the_plain_base(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], init: Any, variant: Any
) -> None:
    """Read by PEFT alone, in a process that knows nothing of the start."""
    from peft import PeftModel

    strategy = LoRA(r=R, init=init, variant=variant)
    stage = SFT(strategy, data=rows["chat"], max_steps=3, learning_rate=3e-3, batch_size=8, max_length=128)
    record = tiny([stage]).run()["sft"]
    read = PeftModel.from_pretrained(plain(), record.folder / "adapter")
    assert read.peft_config["default"].r == 2 * R
    ids = torch.randint(5, 400, (2, 16), generator=torch.Generator().manual_seed(1))
    handed_over = record.models["policy"].load_model()
    with torch.no_grad():
        assert float((read(input_ids=ids).logits - handed_over(input_ids=ids).logits).abs().max()) < 1e-4
    assert record.proofs["read_back_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("init", ["pissa", "lora_ga"])
def test_stopped_and_resumed_it_is_the_same(
    whole_and_resumed: Callable[..., Any], rows: dict[str, Rows], init: Any
) -> None:
    stage = DPO(
        LoRA(r=R, init=init),
        data=rows["pairs"],
        max_steps=5,
        learning_rate=3e-3,
        batch_size=8,
        max_length=128,
    )
    whole, resumed = whole_and_resumed(stage, 3)
    assert resumed.keys() == whole.keys()
    assert all(bool((resumed[name] == value).all()) for name, value in whole.items())


def test_a_start_that_differs_in_the_checkpoint_is_put_right() -> None:
    """On another machine the same start may differ in the last bit; W' goes with the checkpoint's."""
    strategy = LoRA(r=R, init="pissa")
    model, layers = started(strategy)
    hooks = strategy.hooks(model, Schedule(4, 4.0))
    other = {name: value * 1.01 for name, value in hooks.state().items()}
    hooks.restore(other)
    layer = layers[QUERY]
    b, a = (other[f"base_model.model.{QUERY}.{side}"].double().numpy() for side in ("lora_B", "lora_A"))
    whole = layer.get_base_layer().weight.detach().double().numpy() + layer.scaling["default"] * b @ a
    assert np.abs(whole - plain().get_submodule(QUERY).weight.detach().numpy()).max() < 1e-6


def test_the_two_sides_learn_at_their_own_rates(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    """B starts at zero and AdamW's first step is the learning rate; A has no gradient yet and stays."""
    from safetensors.torch import load_file

    stage = SFT(LoRA(r=R, lr_ratio=8.0), data=rows["chat"], max_steps=1, learning_rate=1e-3, max_length=128)
    record = tiny([stage]).run()["sft"]
    weights = load_file(record.folder / "adapter" / "adapter_model.safetensors")
    largest = [float(value.abs().max()) for name, value in weights.items() if ".lora_B." in name]
    assert largest == pytest.approx([8e-3] * 14, rel=2e-2)


def test_only_chosen_layers_have_an_adapter(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    model = LoRA(r=R, layers_to_transform=-1).wrap(plain(), "policy", 0)
    names = {name.removeprefix("base_model.model.") for name, _ in lora_layers(model)}
    assert len(names) == 7
    assert all(name.startswith("model.layers.1.") for name in names)
    model = LoRA.preset("tiny").wrap(plain(), "policy", 0)
    names = {name.removeprefix("base_model.model.") for name, _ in lora_layers(model)}
    assert names == {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}


def test_presets_are_what_the_field_advises() -> None:
    assert LoRA.preset("classification") == LoRA(
        r=8, alpha=32, dropout=0.05, target_modules=("query", "value")
    )
    assert LoRA.preset("instruction", r=8).r == 8
    assert LoRA.preset("instruction").target_modules == ("q_proj", "k_proj", "v_proj")
    assert QLoRA.preset("24GB") == QLoRA(r=16, alpha=32, dropout=0.05)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_ppo_and_grpo_start_from_the_policy_as_it_came(
    words: Callable[..., Pipeline], prompts: Rows, init: Any
) -> None:
    """The base under the roles is not the policy's start, so all of them carry the frozen copy of it."""
    strategy = LoRA(r=8, init=init)
    common: dict[str, Any] = {"max_length": 32, "max_new_tokens": 6, "batch_size": 16, "learning_rate": 3e-3}

    def lengths(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    run = words([
        PPO(strategy, data=prompts, reward=lengths, max_steps=2, **common),
        GRPO(strategy, data=prompts, reward=lengths, max_steps=2, num_generations=4, beta=0.1, **common),
    ]).run()  # fmt: skip
    for name in ("ppo", "grpo"):
        assert run[name].proofs["reference_difference_nats"] < 1e-4
        assert run[name].proofs["copies_of_the_base"] == 1
        assert run[name].history[0]["kl"] == pytest.approx(0.0, abs=1e-4)


CASES: list[tuple[str, Any, str]] = [
    ("a negative rank", lambda: LoRA(r=-1), "r must be a whole number at least 1"),
    ("loftq without four bits", lambda: LoRA(init="loftq"), r"take QLoRA\(init='loftq'\)"),
    ("loftq in eight bits", lambda: QLoRA(init="loftq", bits=8), "LoftQ is for 4 bits"),
    ("pissa on a quantised base", lambda: QLoRA(init="pissa"), "rewrites the base, which is quantised here"),
    ("no such start", lambda: LoRA(init="pisa"), "init must be one of 'pissa', 'olora', 'eva', 'lora_ga'"),
    ("dora with a start", lambda: LoRA(init="pissa", variant="dora"), "leave one of them out"),
    ("three bits", lambda: QLoRA(bits=3), "bits must be 4 or 8"),
    ("a ratio of zero", lambda: LoRA(lr_ratio=0), "lr_ratio must be a number above 0"),
    (
        "layers that are no numbers",
        lambda: LoRA(layers_to_transform=["1"]),
        "the number of a layer or a list",
    ),
    (
        "a pattern without layers",
        lambda: LoRA(layers_pattern="layers"),
        "given together with layers_to_transform",
    ),
    ("the head", lambda: LoRA(modules_to_save=["lm_head"]), "lm_head is the head"),
    ("a name for names", lambda: LoRA(modules_to_save="norm"), "modules_to_save must be a list of names"),
    ("a bias", lambda: LoRA(bias="some"), "bias must be one of 'none', 'all', 'lora_only'"),
    ("an unknown preset", lambda: LoRA.preset("chat"), "there is 'classification', 'instruction', 'tiny'"),
    ("a preset of four bits", lambda: LoRA.preset("8GB"), r"take QLoRA.preset\('8GB'\)"),
]


@pytest.mark.parametrize(("make", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused_when_it_is_written(make: Any, text: str) -> None:
    with pytest.raises(SettingError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (LoRA(layers_to_transform=[0, 99]), "there is no layer 99, the model has 2, numbered from 0"),
        (
            LoRA(layers_to_transform=0, layers_pattern="blocks"),
            "no list of layers of that name; its layers are",
        ),
        (LoRA(modules_to_save=["norms"]), "no layer called 'norms'; it has .*norm"),
        (LoRA(modules_to_save=["embed_tokens"]), r"one matrix with the head.*take Freeze\(modules="),
        (LoRA(target_modules=["q_proj", "qproj"]), "no linear layer called 'qproj'; it has .*q_proj"),
    ],
)
def test_refused_in_the_plan(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], strategy: Any, text: str
) -> None:
    with pytest.raises(StrategyError, match=text) as caught:
        tiny([SFT(strategy, data=rows["chat"], max_steps=2)]).plan()
    assert "\n" not in str(caught.value)


def test_a_rank_above_the_width_is_refused(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    with pytest.raises(StrategyError, match=r"init='lora_ga', r=40\): the layer .* wide, which allows r=\d+"):
        tiny([SFT(LoRAGA(r=40), data=rows["chat"], max_steps=2, max_length=128)]).run()


def test_too_few_tokens_for_the_directions(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    few = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    with pytest.raises(StrategyError, match=r"init='eva', r=64\): the rows have \d+ trained tokens"):
        tiny([SFT(LoRA(r=64, init="eva"), data=few, max_steps=2, max_length=128)]).run()


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path, rows: dict[str, Rows]) -> None:
    from posttrain.errors import ModelError
    from posttrain.pipeline.quantization import quantise

    model = quantise(plain(), torch.float32, "nf4")
    with pytest.raises(ModelError, match=r"quantised already \(bitsandbytes\).*take the unquantised model"):
        quantise(model, torch.float32, "nf4")
