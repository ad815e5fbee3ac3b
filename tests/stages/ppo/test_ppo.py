"""PPO as a stage: it learns, its proofs hold, its roles are what they say, and it goes on where it was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import PPO, SFT, Full, LoRA, Pipeline, QLoRA, RewardModel, RewardModelRef
from posttrain.errors import (
    PipelineError,
    RewardError,
    RewardGateError,
    RunInterrupted,
    SettingError,
    TrainingDivergedError,
    WrongBaseError,
)
from tests.stages.words import WORDS, moody_of, rivers

Rows = list[dict[str, Any]]
LEARN: dict[str, Any] = {
    "max_length": 32, "max_new_tokens": 8, "batch_size": 64, "learning_rate": 3e-3, "kl_coef": 0.01,
    "trainer_args": {"critic_learning_rate": 3e-3},
}  # fmt: skip
SHORT = LEARN | {"max_steps": 3, "batch_size": 8}
lora = LoRA(r=8)


@pytest.fixture(scope="session")
def pairs() -> Rows:
    """ "river" is preferred to any other word."""
    return [{"prompt": f"{one} {other}", "chosen": "river river", "rejected": f"{other} {one}"}
            for one in WORDS[:6] for other in WORDS[6:14]]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_it_learns_from_a_function(words: Callable[..., Pipeline], prompts: Rows, seed: int) -> None:
    """Mean reward of the maximum of 1: from below 0.2 to above 0.8, held-out prompts, 5 of 5 seeds."""
    run = words([PPO(lora, data=prompts, reward=rivers, max_steps=30, **LEARN)], seed=seed).run()
    metrics = run["ppo"].metrics
    assert metrics["reward_before"] < 0.2
    assert metrics["reward_after"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "more", "bases"),
    [
        (lora, {}, 1),
        (lora, {"critic": "shared"}, 1),
        (QLoRA(r=8), {}, 1),
        (Full(), {}, 2),
        (Full(), {"critic": "shared"}, 2),
    ],
    ids=["lora", "lora shared", "qlora", "full", "full shared"],
)
def test_the_chain_against_a_reward_model(
    words: Callable[..., Pipeline],
    prompts: Rows,
    pairs: Rows,
    strategy: Any,
    more: dict[str, Any],
    bases: int,
) -> None:
    """Every strategy starts as its own reference, on one base (two when the base itself is trained), and learns."""
    chain = [
        RewardModel(strategy, data=pairs, max_steps=30, batch_size=16, learning_rate=3e-3, max_length=32),
        PPO(strategy, data=prompts, **(LEARN | {"max_steps": 12, "kl_coef": 0.02} | more)),
    ]
    run = words(chain).run()
    proofs, metrics = run["ppo"].proofs, run["ppo"].metrics
    assert proofs["reference_difference_nats"] == 0.0
    assert proofs["log_prob_difference"] < 1e-5
    assert proofs["copies_of_the_base"] == bases + (
        strategy == Full()
    )  # a full reward model is a model of its own
    assert proofs["reward_model_accuracy"] > 0.9
    assert metrics["kl_before"] == 0.0
    assert metrics["reward_after"] > metrics["reward_before"] + metrics["reward_std_before"]
    first = run["ppo"].history[0]
    assert first["kl"] == 0.0


def test_the_shared_reward_model_scores_as_the_one_on_disk(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages.evaluation import scores
    from posttrain.stages.online.judges import Judges

    seen: list[tuple[Any, list[float]]] = []
    real = Judges.score

    def spy(self: Any, answered: Any) -> Any:
        total, parts = real(self, answered)
        seen.append((answered, total))
        return total, parts

    monkeypatch.setattr(Judges, "score", spy)
    rewarder = RewardModel(lora, data=pairs, max_steps=10, batch_size=8, learning_rate=1e-3, max_length=32)
    run = words([rewarder, PPO(lora, data=prompts, **SHORT)]).run()
    assert run.reward_model is not None
    model, tokenizer = run.reward_model.load()
    answered, mine = seen[-1]  # at the end, when the policy has long been another
    end = tokenizer.eos_token_id
    cut = [ids for ids in answered.answer_ids if ids[-1] != end]
    assert 0 < len(cut) < len(answered.answer_ids)
    # A reward model knows answers by their end, so one that was cut is given an end to be scored at.
    ended = [ids if ids[-1] == end else (*ids, end) for ids in answered.answer_ids]
    rows = [[*p, *a] for p, a in zip(answered.prompt_ids, ended, strict=True)]
    assert mine == pytest.approx(scores(model, rows, tokenizer.pad_token_id), abs=1e-5)


def test_a_shared_critic_starts_at_zero_and_is_read_in_the_policys_pass(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score head was trained on the reward adapter's states: on the policy's own it would be noise."""
    from posttrain.stages.online.roles import Roles

    monkeypatch.delattr(Roles, "values")  # a pass of its own
    rewarder = RewardModel(lora, data=pairs, max_steps=4, batch_size=8, max_length=32)
    run = words([rewarder, PPO(lora, data=prompts, gate=None, critic="shared", **SHORT)]).run()
    first, second = run["ppo"].history[:2]
    assert first["value"] == 0.0 and first["explained_variance"] == pytest.approx(0.0)
    assert second["value"] != 0.0


def test_the_frozen_roles_stay_frozen(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages.online import rollouts

    kept: dict[str, Any] = {}
    real = rollouts.load_roles

    def load(*args: Any) -> Any:
        roles = real(*args)
        kept["roles"] = roles
        kept["before"] = {name: p.detach().clone() for name, p in roles.trunk.named_parameters()}
        return roles

    monkeypatch.setattr(rollouts, "load_roles", load)
    rewarder = RewardModel(lora, data=pairs, max_steps=4, batch_size=8, max_length=32)
    words([rewarder, PPO(lora, data=prompts, gate=None, **SHORT)]).run()
    moved = {
        "critic"
        if ".critic." in name
        else "reward"
        if ".reward." in name
        else "policy"
        if ".default." in name
        else "base"
        for name, p in kept["roles"].trunk.named_parameters()
        if not bool((p == kept["before"][name]).all())
    }
    assert moved == {"policy", "critic"}


def adapter_of(run: Any, stage: str = "ppo") -> bytes:
    return bytes((run[stage].folder / "adapter" / "adapter_model.safetensors").read_bytes())


def test_accumulation_is_the_big_batch(
    words: Callable[..., Pipeline], prompts: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight answers at once, two at a time, or as few as the cores of a CPU ask for: the same adapter."""
    from safetensors.torch import load

    def trained(name: str, **settings: Any) -> dict[str, Any]:
        stage = PPO(
            lora, data=prompts, reward=rivers, **(SHORT | {"max_steps": 1, "learning_rate": 1e-3} | settings)
        )
        return load(adapter_of(words([stage], name=name).run()))

    whole, parts = trained("whole", batch_size=8), trained("parts", batch_size=2, gradient_accumulation=4)
    monkeypatch.setattr("posttrain.stages.ppo.stage._HIDDEN_ON_A_CPU", 3 * 14 * 48)
    assert [PPO(batch_size=8).rows_at_once(14, 48, on_gpu) for on_gpu in (False, True)] == [3, 8]
    assert PPO(batch_size=8).rows_at_once(1000, 48, False) == 1
    cut = trained("cut", batch_size=8)
    assert whole.keys() == parts.keys() == cut.keys()
    for name in whole:
        assert (whole[name] - parts[name]).abs().max() < 1e-5, name
        assert (whole[name] - cut[name]).abs().max() < 1e-5, name


def test_killed_anywhere_it_ends_the_same(words: Callable[..., Pipeline], prompts: Rows) -> None:
    """The reward function fails at one call after the other; every time the next start goes on, to the same end."""
    moody, calls = moody_of(rivers)

    stage = PPO(lora, data=prompts, reward=moody, **(SHORT | {"max_steps": 5}))
    expected = words([stage], name="whole").run()
    for call in (2, 4, 6):  # call 1 measures before training, the last one after it
        calls.update(count=0, fails_at=call)
        pipeline = words([stage], name=f"killed {call}")
        with pytest.raises(
            RewardError, match="moody raised ConnectionError: the judge is asleep; the state is saved"
        ):
            pipeline.run()
        again = pipeline.run()
        assert adapter_of(again) == adapter_of(expected)
        compare = ("step", "reward", "kl", "loss", "value_loss", "kl_coef")
        assert [[line[name] for name in compare] for line in again["ppo"].history] == [
            [line[name] for name in compare] for line in expected["ppo"].history
        ]


def test_a_signal_saves_and_the_next_start_goes_on(words: Callable[..., Pipeline], prompts: Rows) -> None:
    import os
    import signal

    calls = {"left": 0}

    def judge(prompts: Any, completions: Any, **_: Any) -> list[float]:
        calls["left"] -= 1
        if calls["left"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return rivers(prompts, completions)

    stage = PPO(lora, data=prompts, reward=judge, **(SHORT | {"max_steps": 4}))
    expected = words([stage], name="whole").run()
    calls["left"] = 3  # the second rollout's: the first call measures before training
    pipeline = words([stage], name="stopped")
    with pytest.raises(RunInterrupted, match="after step 2"):
        pipeline.run()
    assert adapter_of(pipeline.run()) == adapter_of(expected)


def test_continue_starts_from_the_frozen_copy(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows
) -> None:
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    sft = SFT(lora, data=chats, max_steps=10, learning_rate=1e-3, batch_size=8, max_length=32)
    rewarder = RewardModel(lora, data=pairs, max_steps=20, batch_size=16, learning_rate=3e-3, max_length=32)
    run = words([sft, rewarder, PPO(lora, data=prompts, handover="continue", **SHORT)]).run()
    assert run["ppo"].proofs["reference_difference_nats"] < 1e-5
    assert run["ppo"].proofs["copies_of_the_base"] == 1.0
    assert len(run.model.adapters) == 1  # SFT's adapter, trained on


@pytest.mark.slow
def test_the_policy_reaches_the_known_optimum(words: Callable[..., Pipeline]) -> None:
    """One prompt, one token: the best policy under reward - beta KL is ref exp(r / beta) / Z (a correctness test of
    rollout, penalty, advantage and update together)."""
    import torch

    wanted = {"river": 1.0, "boat": 0.5, "moon": 0.25}

    def bandit(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return [wanted.get(text, 0.0) for text in completions]

    beta = 0.5
    stage = PPO(
        Full(), data=[{"prompt": "a fox"}] * 4, reward=bandit, max_new_tokens=1, max_length=16, batch_size=512,
        max_steps=60, learning_rate=2e-3, kl_coef=beta,
        trainer_args={"critic_learning_rate": 1e-2, "num_ppo_epochs": 2, "lr_scheduler_type": "linear"},
    )  # fmt: skip
    run = words([stage]).run()
    prompt = None
    probabilities = []
    for reference in (run.start, run.model):
        model, tokenizer = reference.load()
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "a fox"}], add_generation_prompt=True
        )["input_ids"]
        with torch.no_grad():
            probabilities.append(torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1))
    reference_V, policy_V = probabilities
    rewards_V = torch.tensor(
        [wanted.get(tokenizer.decode([i]), 0.0) for i in range(len(reference_V))]
    ).double()
    optimum_V = reference_V * torch.exp(rewards_V / beta)
    optimum_V /= optimum_V.sum()
    start = float((optimum_V * (optimum_V / reference_V).log()).sum())
    left = float((optimum_V * (optimum_V / policy_V).log()).sum())
    assert start > 0.05
    assert left < 0.1 * start


CASES: list[tuple[str, Any, type[Exception], str]] = [
    ("a bad schedule", lambda d: PPO(lora, trainer_args={"lr_scheduler_type": "cosin"}), SettingError,
     "lr_scheduler_type must be one of 'constant'"),
    ("no reward", lambda d: Pipeline([PPO(lora, data=d)]), PipelineError, "needs a reward model"),
    ("a reward model too early", lambda d: Pipeline([RewardModel(lora), SFT(lora), PPO(lora)]), PipelineError,
     "sft changes the policy after it; put reward_model behind sft"),
    ("no token to say", lambda d: PPO(lora, max_new_tokens=0), SettingError, "max_new_tokens must be a whole number at least 1"),
    ("no room for a prompt", lambda d: PPO(lora, max_new_tokens=64, max_length=64), SettingError, "nothing is left for the prompt"),
    ("no function", lambda d: PPO(lora, reward="runs/x"), SettingError, r"RewardModelRef\('runs/x'\)"),
    ("no such folder", lambda d: Pipeline([PPO(lora, data=d, reward=RewardModelRef("nowhere"))]), SettingError, "there is no such folder"),
    ("too many weights", lambda d: PPO(lora, reward=rivers, reward_weights=[1.0, 2.0]), SettingError, "there are 1 rewards; give 1 weights"),
    ("an unknown argument", lambda d: PPO(lora, trainer_args={"clip_range": 0.1}), SettingError, "did you mean 'cliprange'"),
    ("a bad argument", lambda d: PPO(lora, trainer_args={"lam": 1.5}), SettingError, "lam must be a number from 0 to 1"),
    ("half prompts", lambda d: PPO(lora, overlong="truncate"), SettingError, "'error', 'drop'"),
    ("a prompt with fewer answers", lambda d: PPO(lora, batch_size=8, num_generations=3), SettingError,
     "a rollout has 8 answers .* no multiple of it"),
    ("a bad critic", lambda d: PPO(lora, critic="none"), SettingError, "one of 'adapter', 'shared'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused_when_it_is_written(prompts: Rows, make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        make(prompts)
    assert "\n" not in str(caught.value)


def test_prompts_that_leave_no_room(words: Callable[..., Pipeline]) -> None:
    from posttrain.errors import OverlongError, RowError

    long = [{"prompt": "river " * 30}] * 4
    with pytest.raises(
        OverlongError, match="the 24 tokens that max_length leaves them beside max_new_tokens"
    ):
        words([PPO(lora, data=long, reward=rivers, **SHORT)]).plan()
    with pytest.raises(RowError, match="is empty"):
        words([PPO(lora, data=[{"prompt": "a"}, {"prompt": " "}], reward=rivers, **SHORT)]).plan()


def test_a_weak_reward_model_is_refused(words: Callable[..., Pipeline], prompts: Rows, pairs: Rows) -> None:
    backwards = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs[:4]] * 2
    rewarder = RewardModel(
        lora, data=pairs, eval_data=backwards, max_steps=10, batch_size=8, learning_rate=1e-3, max_length=32
    )
    with pytest.raises(
        RewardGateError, match=r"ranks \d+% of its held-out pairs rightly, and gate=0.6 asks for 60%"
    ):
        words([rewarder, PPO(lora, data=prompts, **SHORT)]).run()
    run = words([rewarder, PPO(lora, data=prompts, gate=None, **SHORT)]).run()
    assert run["ppo"].metrics["steps"] == 3


def test_a_reward_adapter_of_another_base_is_refused(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows
) -> None:
    rewarder = RewardModel(lora, data=pairs, max_steps=4, batch_size=8, max_length=32)
    first = words([rewarder], name="rewards").run()
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    sft = SFT(lora, data=chats, max_steps=2, batch_size=8, max_length=32)
    with pytest.raises(WrongBaseError, match="train the reward model on this policy"):
        words([sft, PPO(lora, data=prompts, reward=RewardModelRef(first.folder), gate=None, **SHORT)]).run()
    same = words(
        [PPO(lora, data=prompts, reward=RewardModelRef(first.folder), gate=None, **SHORT)], name="same"
    ).run()
    assert same["ppo"].proofs["copies_of_the_base"] == 1.0


def test_a_whole_reward_model_is_in_the_plan(
    words: Callable[..., Pipeline], prompts: Rows, pairs: Rows
) -> None:
    rewarder = RewardModel(Full(), data=pairs, max_steps=2, batch_size=8, max_length=32)
    first = words([rewarder], name="rewards").run()
    assert first.reward_model is not None
    reward = RewardModelRef(first.reward_model.base)
    (plain,) = words([PPO(lora, data=prompts, reward=rivers, **SHORT)]).plan()
    (plan,) = words([PPO(lora, data=prompts, reward=[rivers, reward], **SHORT)]).plan()
    assert plain is not None and plan is not None
    weights = sum(path.stat().st_size for path in Path(first.reward_model.base).glob("*.safetensors"))
    assert plan.memory_bytes - plain.memory_bytes == weights  # float32 on disk and on a CPU
    assert any(note.startswith("reward model is a whole model of its own") for note in plan.notes)


def test_rewards_are_weighted_and_logged_one_by_one(words: Callable[..., Pipeline], prompts: Rows) -> None:
    def length(prompts: Any, completions: Any, **_: Any) -> list[int]:
        return [len(text.split()) for text in completions]

    stage = PPO(lora, data=prompts, reward=[rivers, length], reward_weights=[1.0, -0.1], **SHORT)
    for line in words([stage]).run()["ppo"].history:
        assert line["reward"] == pytest.approx(line["reward/rivers"] - 0.1 * line["reward/length"])


def test_rewards_that_do_not_vary_yet_are_waited_for(words: Callable[..., Pipeline], prompts: Rows) -> None:
    calls = {"count": 0}

    def later(prompts: Any, completions: Any, **_: Any) -> list[float]:
        calls["count"] += 1
        return [len(text) / 40 if calls["count"] > 3 else 0.0 for text in completions]

    run = words([PPO(lora, data=prompts, reward=later, **(SHORT | {"max_steps": 4}))]).run()
    assert run["ppo"].proofs["parameters_moved"] > 0


def test_columns_reach_the_function(words: Callable[..., Pipeline]) -> None:
    seen: list[Any] = []

    def judge(prompts: Any, completions: Any, answer: Any, **others: Any) -> list[float]:
        seen.extend(zip(prompts, answer, others["level"], strict=True))
        return [float(text.startswith(a)) for text, a in zip(completions, answer, strict=True)]

    rows = [{"prompt": f"{word} fox", "answer": word, "level": i} for i, word in enumerate(WORDS[:8])]
    words([PPO(lora, data=rows, reward=judge, **SHORT)]).run()
    assert set(seen) == {(row["prompt"], row["answer"], row["level"]) for row in rows}


def test_a_policy_that_says_nothing_is_stopped(
    words: Callable[..., Pipeline], prompts: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages.online.sampling import Answer, TransformersSampler

    monkeypatch.setattr(
        TransformersSampler, "sample", lambda self, prompts, seeds: [Answer((1,), True)] * len(prompts)
    )
    with pytest.raises(TrainingDivergedError, match="The policy says nothing: all of 8 answers are empty"):
        words([PPO(lora, data=prompts, eval_data=prompts[:8], reward=rivers, **SHORT)]).run()


def test_a_reward_that_never_varies_is_said(words: Callable[..., Pipeline], prompts: Rows) -> None:
    def same(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return [0.5] * len(completions)

    run = words([PPO(lora, data=prompts, reward=same, **(SHORT | {"max_steps": 4}))]).run()
    alarms = (run["ppo"].folder / "alarms.jsonl").read_text()
    assert "every answer gets the same reward" in alarms
    assert alarms.count("\n") == run["ppo"].metrics["alarms"] == 1
