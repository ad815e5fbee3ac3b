"""What PPO can be told beside its defaults: each setting does what its name says, in a whole stage."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import PPO, LoRA, Pipeline
from posttrain.errors import SettingError
from posttrain.pipeline import Ranks
from tests.stages.words import moody_of, rivers

Rows = list[dict[str, Any]]
SHORT: dict[str, Any] = {
    "max_length": 32, "max_new_tokens": 8, "batch_size": 16, "max_steps": 3, "learning_rate": 3e-3, "kl_coef": 0.01,
}  # fmt: skip
CHATS = [
    {"prompt": f"{one} fox", "completion": "the moon sleeps"} for one in ("a", "old", "red", "blue", "green")
]


def run(words: Callable[..., Pipeline], prompts: Rows, name: str = "run", **settings: Any) -> Any:
    arguments = settings.pop("trainer_args", {})
    stage = PPO(LoRA(r=8), data=prompts, trainer_args={"critic_learning_rate": 3e-3} | arguments,
                **({"reward": rivers} | SHORT | settings))  # fmt: skip
    return words([stage], name=name).run()["ppo"]


def adapter_of(stage: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(stage.folder / "adapter" / "adapter_model.safetensors")
    return found


def test_recomputed_activations_change_nothing(words: Callable[..., Pipeline], prompts: Rows) -> None:
    kept = adapter_of(run(words, prompts, "kept", trainer_args={"gradient_checkpointing": False}))
    again = adapter_of(run(words, prompts, "again", trainer_args={"gradient_checkpointing": True}))
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_layers_recompute_only_in_the_backward_pass(words_model: Path) -> None:
    """In evaluation mode transformers would not recompute at all, and a decode would lose its cache in training mode."""
    from transformers import AutoModelForCausalLM

    from posttrain.stages.online.roles import Batch, Roles

    model = LoRA(r=4).wrap(AutoModelForCausalLM.from_pretrained(words_model), "policy", 0)
    roles = Roles(model, model, below=[], critic_is_shared=True)
    roles.add_value_head()
    roles.freeze_all_but_trained()
    roles.recompute_activations()
    calls = {"count": 0}
    inner = model.get_base_model().model.layers[0].mlp
    inner.register_forward_pre_hook(lambda *_: calls.__setitem__("count", calls["count"] + 1))
    batch = Batch.of([[5, 6, 7]], [[8, 9]], 0, "cpu")
    with torch.no_grad():
        roles.log_probs(batch, "policy", 1.0)
    assert calls["count"] == 1
    log_probs, _ = roles.log_probs(batch, "policy", 1.0)
    log_probs.sum().backward()
    assert calls["count"] == 3  # forward, and once more in the backward pass
    assert not any(module.training for module in model.modules())


def test_a_shared_critic_in_one_pass_has_the_gradients_of_two(words_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from posttrain.stages.online.roles import Batch, Roles

    model = LoRA(r=4).wrap(AutoModelForCausalLM.from_pretrained(words_model), "policy", 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    roles = Roles(model, model, below=[], critic_is_shared=True)
    roles.add_value_head()
    roles.freeze_all_but_trained()
    torch.nn.init.ones_(roles.value_head.weight)  # type: ignore[union-attr]
    batch = Batch.of([[5, 6, 7], [9, 4]], [[8, 9], [10, 11, 12]], 0, "cpu")

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        loss.backward()
        found = [p.grad.clone() for p in roles.policy_parameters]  # type: ignore[union-attr]
        for parameter in roles.policy_parameters:
            parameter.grad = None
        return found

    log_probs, _, values = roles.log_probs_and_values(batch, 1.0)
    together = gradients(log_probs.sum() + 0.3 * values.sum())
    apart = [a + b for a, b in zip(
        gradients(roles.log_probs(batch, "policy", 1.0)[0].sum()), gradients(0.3 * roles.values(batch).sum()), strict=True,
    )]  # fmt: skip
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_merged_decode_says_the_same_and_leaves_no_trace(words_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from posttrain.stages.merging import merged
    from posttrain.stages.online.sampling import TransformersSampler

    model = LoRA(r=4).wrap(AutoModelForCausalLM.from_pretrained(words_model), "policy", 0).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prompts, seeds = [[2, 7, 3], [2, 8, 9, 10, 3]], [5, 6]
    apart = TransformersSampler(model, 0, (1,), 20, 1.0).sample(prompts, seeds)
    assert TransformersSampler(model, 0, (1,), 20, 1.0, merges=True).sample(prompts, seeds) == apart
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        adapted = model(ids).logits
        with merged(model), pytest.raises(KeyError):
            assert torch.allclose(model(ids).logits, adapted, atol=1e-4)
            raise KeyError
        assert torch.equal(model(ids).logits, adapted)
        with model.disable_adapter():
            bare = model(ids).logits
    assert not torch.allclose(bare, adapted, atol=1e-3)  # the adapter does something
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert TransformersSampler(model, 0, (1,), 20, 1.0).sample(prompts, seeds) == apart


@pytest.mark.parametrize(("tokens", "merges"), [(8, False), (16, True)])
def test_long_answers_are_decoded_with_merged_adapters(
    words: Callable[..., Pipeline], prompts: Rows, monkeypatch: pytest.MonkeyPatch, tokens: int, merges: bool
) -> None:
    from posttrain.stages.online import sampling

    calls, real = {"count": 0}, sampling.merged

    def spy(model: Any) -> Any:
        calls["count"] += 1
        return real(model)

    monkeypatch.setattr(sampling, "merged", spy)
    record = run(words, prompts, max_steps=1, max_new_tokens=tokens, max_length=32)
    assert calls["count"] == (3 if merges else 0)  # measured before and after, and one rollout
    assert record.history[0]["kl"] == 0.0


def test_other_rows_are_learned_too(words: Callable[..., Pipeline], prompts: Rows) -> None:
    """PPO-ptx: with a reward that never varies, what is left is the language loss, and it falls."""

    def same(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return [0.5] * len(completions)

    stage = PPO(LoRA(r=8), data=prompts, reward=same, ptx_data=CHATS, ptx_coef=1.0,
                **(SHORT | {"max_steps": 6, "learning_rate": 1e-3, "kl_coef": 0.0}))  # fmt: skip
    record = words([stage]).run()["ppo"]
    losses = [line["pretraining_loss"] for line in record.history]
    assert losses[-1] < losses[0] - 0.3
    assert (record.metrics["ptx_rows"], record.metrics["ptx_rows_dropped"]) == (5.0, 0.0)


def test_its_loss_is_the_language_loss(words_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from posttrain.data_formats import TokenTable
    from posttrain.stages.cpt import language_loss
    from posttrain.stages.online.roles import Roles
    from posttrain.stages.ppo.pretraining import PretrainingRows

    model = LoRA(r=4).wrap(AutoModelForCausalLM.from_pretrained(words_model), "policy", 0)
    roles = Roles(model, model, below=[], critic_is_shared=True)
    roles.add_value_head()
    roles.freeze_all_but_trained()
    rows = {
        "input_ids": [[2, 7, 3, 8], [2, 9, 3, 10, 11, 1]],
        "labels": [[-100, -100, 3, 8], [-100, -100, -100, 10, 11, 1]],
    }
    table = TokenTable.of(rows)
    for micro_batch in (1, 2):  # accumulated or not
        loss = PretrainingRows(table, 0.5, seed=3, pad_id=0).backward(
            roles, Ranks(), 0, rows=2, micro_batch=micro_batch
        )
        assert loss == pytest.approx(language_loss(model, table, 0).numbers["loss"], abs=1e-5)


def test_it_goes_on_with_other_rows_bit_for_bit(words: Callable[..., Pipeline], prompts: Rows) -> None:
    moody, calls = moody_of(rivers)

    stage = PPO(LoRA(r=8), data=prompts, reward=moody, ptx_data=CHATS, **SHORT)
    expected = words([stage], name="whole").run()["ppo"]
    calls.update(count=0, fails_at=3)
    pipeline = words([stage], name="stopped")
    with pytest.raises(Exception, match="asleep"):
        pipeline.run()
    again = adapter_of(pipeline.run()["ppo"])
    assert all(torch.equal(again[name], value) for name, value in adapter_of(expected).items())


def test_the_plan_accounts_for_other_rows(words: Callable[..., Pipeline], prompts: Rows) -> None:
    (plan,) = words([PPO(LoRA(r=8), data=prompts, reward=rivers, ptx_data=CHATS, **SHORT)]).plan()
    assert plan is not None
    assert any(note.startswith("ptx_data: kept 5 of 5 rows") for note in plan.notes)


def test_other_rows_decide_the_stages_key(prompts: Rows) -> None:
    one, other = (
        PPO(LoRA(r=8), data=prompts, reward=rivers, ptx_data=rows).identity() for rows in (CHATS, CHATS[:3])
    )
    assert one != other
    with pytest.raises(SettingError, match="ptx_coef must be"):
        PPO(ptx_coef=0.0)


def test_the_critic_alone_first(words: Callable[..., Pipeline], prompts: Rows) -> None:
    """In its warm-up steps the policy does not move: the KL stays 0, the value loss falls."""
    record = run(words, prompts, max_steps=4, trainer_args={"value_warmup_steps": 3})
    assert [line["kl"] for line in record.history[:4]] == [0.0] * 4  # of the rollout before each update
    assert record.history[2]["value_loss"] < record.history[0]["value_loss"]
    assert record.metrics["kl_after"] != 0.0


def test_a_target_is_steered_to(words: Callable[..., Pipeline], prompts: Rows) -> None:
    calm = run(words, prompts, "calm", max_steps=8, target_kl=0.01, trainer_args={"kl_horizon": 16})
    assert calm.history[-1]["kl_coef"] > calm.history[0]["kl_coef"]
    free = run(words, prompts, "free", max_steps=8)
    assert {line["kl_coef"] for line in free.history} == {0.01}
    assert calm.metrics["kl_after"] < free.metrics["kl_after"]


def test_a_prompts_other_answers_are_the_baseline(words: Callable[..., Pipeline], prompts: Rows) -> None:
    """What a reward gives to a prompt whatever is said to it teaches nothing, where each has several answers."""
    seen: list[Counter[str]] = []

    def spoiled(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
        texts = [str(prompt) for prompt in prompts]
        seen.append(Counter(texts))
        own = rivers(prompts, completions)
        return [score + len(text) for score, text in zip(own, texts, strict=True)]

    def moved(name: str, **settings: Any) -> float:
        """How far apart the adapters end that learn from the plain and the spoiled reward."""
        plain, other = (adapter_of(run(words, prompts, f"{name} {kind}", reward=reward, max_steps=2, **settings))
                        for kind, reward in (("plain", rivers), ("spoiled", spoiled)))  # fmt: skip
        return max(float((plain[key] - other[key]).abs().max()) for key in plain)

    assert moved("groups", num_generations=4) < 1e-4
    assert sum(set(count.values()) == {4} and len(count) == 4 for count in seen) == 2  # one rollout a step
    assert moved("alone") > 1e-3


def test_an_entropy_bonus_keeps_the_policy_open(words: Callable[..., Pipeline], prompts: Rows) -> None:
    closed = run(words, prompts, "closed", max_steps=8)
    opened = run(words, prompts, "opened", max_steps=8, trainer_args={"entropy_coef": 0.3})
    assert opened.history[-1]["entropy"] > closed.history[-1]["entropy"] + 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale_rewards": True, "reward_clip": 2.0},
        {"whiten_rewards": True},
        {"kl_estimator": "k3"},
        {"temperature": 1.3},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2},
        {"num_mini_batches": 2, "missing_eos_penalty": 0.5},
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_every_other_argument_runs_and_counts(
    words: Callable[..., Pipeline], prompts: Rows, arguments: dict[str, Any]
) -> None:
    """Each changes the result, and none breaks the first step's proofs."""
    record, plain = run(words, prompts, "told", trainer_args=arguments), run(words, prompts, "plain")
    assert record.proofs["reference_difference_nats"] == 0.0
    assert record.history[0]["kl"] == 0.0
    one, other = adapter_of(record), adapter_of(plain)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_early_stop_leaves_updates_out(words: Callable[..., Pipeline], prompts: Rows) -> None:
    record = run(words, prompts, learning_rate=3e-2, trainer_args={"stop_kl": 1e-3})
    assert any(line["stopped_early"] for line in record.history)
    assert min(line["updates"] for line in record.history) < 4
