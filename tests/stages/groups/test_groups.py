"""GRPO and RLOO as stages: they learn, share the reward sources, start as their reference, and go on where they stopped."""

from collections.abc import Callable
from typing import Any

import pytest

from posttrain import GRPO, RLOO, SFT, Full, LoRA, Pipeline, RewardModel
from posttrain.errors import RewardError, SettingError
from tests.stages.words import WORDS, lengths, moody_of, rivers

Rows = list[dict[str, Any]]
LEARN: dict[str, Any] = {
    "max_length": 32, "max_new_tokens": 8, "batch_size": 64, "num_generations": 8, "learning_rate": 5e-3, "beta": 0.01,
}  # fmt: skip
SHORT = LEARN | {"max_steps": 3, "batch_size": 8, "num_generations": 4}
lora = LoRA(r=8)


@pytest.fixture(scope="session")
def pairs() -> Rows:
    return [{"prompt": f"{one} {other}", "chosen": "river river", "rejected": f"{other} {one}"}
            for one in WORDS[:6] for other in WORDS[6:14]]  # fmt: skip


def adapter_of(run: Any) -> bytes:
    stage = list(run)[-1]
    return bytes((stage.folder / "adapter" / "adapter_model.safetensors").read_bytes())


@pytest.mark.parametrize("kind", [GRPO, RLOO])
@pytest.mark.parametrize("seed", [0, *[pytest.param(s, marks=pytest.mark.slow) for s in range(1, 5)]])
def test_it_learns_from_a_function(
    words: Callable[..., Pipeline], prompts: Rows, kind: Any, seed: int
) -> None:
    run = words([kind(lora, data=prompts, reward=rivers, max_steps=20, **LEARN)], seed=seed).run()
    (stage,) = run
    assert stage.metrics["reward_before"] < 0.2
    assert stage.metrics["reward_after"] > 0.8
    assert stage.history[0]["kl"] == 0.0
    assert stage.metrics["steps"] == len(stage.history) == 20


@pytest.mark.parametrize(
    ("kind", "strategy", "more", "bases"),
    [
        (GRPO, lora, {}, 1),
        (RLOO, lora, {"handover": "continue"}, 1),
        (GRPO, Full(), {"learning_rate": 1e-3}, 2),
        (RLOO, Full(), {"learning_rate": 1e-3}, 2),
    ],
    ids=["grpo", "rloo continue", "grpo full", "rloo full"],
)
def test_the_chain_against_a_reward_model(
    words: Callable[..., Pipeline],
    prompts: Rows,
    pairs: Rows,
    kind: Any,
    strategy: Any,
    more: dict[str, Any],
    bases: int,
) -> None:
    """The reference is the policy as it came in, not the base: the KL of the first step is 0 behind an SFT stage."""
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    chain = [
        SFT(strategy, data=chats, max_steps=6, learning_rate=1e-3, batch_size=8, max_length=32),
        RewardModel(lora, data=pairs, max_steps=30, batch_size=16, learning_rate=3e-3, max_length=32),
        kind(strategy, data=prompts, **(LEARN | {"max_steps": 10, "beta": 0.05} | more)),
    ]
    run = words(chain).run()
    stage = list(run)[-1]
    assert stage.proofs["copies_of_the_base"] == bases
    assert stage.proofs["log_prob_difference"] < 1e-5
    assert stage.proofs["reference_difference_nats"] < 1e-5
    assert abs(stage.history[0]["kl"]) < 1e-5
    assert stage.history[-1]["kl"] > 1e-4
    assert stage.metrics["reward_after"] > stage.metrics["reward_before"]


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_stopped_anywhere_it_ends_the_same(words: Callable[..., Pipeline], prompts: Rows, kind: Any) -> None:
    """A rollout serves four optimizer steps here; the restart begins with a rollout of its own, and loses nothing."""
    moody, calls = moody_of(lengths)

    settings = SHORT | {"max_steps": 12, "trainer_args": {"num_iterations": 2, "steps_per_generation": 2}}
    stage = kind(lora, data=prompts, reward=moody, **settings)
    expected = words([stage], name="whole").run()
    assert calls["count"] == 2 + 3  # measured before and after, and three rollouts
    for call in (3, 4):
        calls.update(count=0, fails_at=call)
        pipeline = words([stage], name=f"stopped {call}")
        with pytest.raises(RewardError, match="moody raised ConnectionError"):
            pipeline.run()
        again = pipeline.run()
        assert adapter_of(again) == adapter_of(expected)
        assert [line["loss"] for line in next(iter(again)).history] == [
            line["loss"] for line in next(iter(expected)).history
        ]


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_rewards_that_do_not_vary_yet_are_waited_for(
    words: Callable[..., Pipeline], prompts: Rows, kind: Any
) -> None:
    """A hard task pays nothing at first: no gradient, and no fault of the gradients."""
    calls = {"count": 0}

    def later(prompts: Any, completions: Any, **_: Any) -> list[float]:
        calls["count"] += 1
        return [len(text) / 40 if calls["count"] > 3 else 0.0 for text in completions]

    run = words([kind(lora, data=prompts, reward=later, **(SHORT | {"max_steps": 4}))]).run()
    assert next(iter(run)).proofs["parameters_moved"] > 0


def test_a_signal_waits_for_the_end_of_the_rollout(words: Callable[..., Pipeline], prompts: Rows) -> None:
    import os
    import signal

    from posttrain.errors import RunInterrupted

    calls = {"left": 0}

    def judge(prompts: Any, completions: Any, **_: Any) -> list[float]:
        calls["left"] -= 1
        if calls["left"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return rivers(prompts, completions)

    settings = SHORT | {"max_steps": 6, "trainer_args": {"steps_per_generation": 2}}
    stage = GRPO(lora, data=prompts, reward=judge, **settings)
    expected = words([stage], name="whole").run()
    calls["left"] = 3  # the second rollout, which is before step 3
    pipeline = words([stage], name="stopped")
    with pytest.raises(RunInterrupted, match="after step 4"):
        pipeline.run()
    assert adapter_of(pipeline.run()) == adapter_of(expected)


def test_rewards_columns_and_a_second_judge(words: Callable[..., Pipeline]) -> None:
    def starts(prompts: Any, completions: Any, answer: Any, **_: Any) -> list[float]:
        return [float(text.startswith(a)) for text, a in zip(completions, answer, strict=True)]

    def length(prompts: Any, completions: Any, **_: Any) -> list[int]:
        return [len(text.split()) for text in completions]

    rows = [{"prompt": f"{word} fox", "answer": word} for word in WORDS[:8]]
    stage = GRPO(lora, data=rows, reward=[starts, length], reward_weights=[1.0, -0.1], judge=rivers, **SHORT)
    for line in words([stage]).run()["grpo"].history:
        assert line["reward"] == pytest.approx(line["reward/starts"] - 0.1 * line["reward/length"])
        assert 0 <= line["judge"] <= 1


def test_epochs_are_passes_over_the_prompts(words: Callable[..., Pipeline], prompts: Rows) -> None:
    stage = GRPO(lora, data=prompts[:20], eval_data=prompts[:4], reward=rivers,
                 **({k: v for k, v in SHORT.items() if k != "max_steps"} | {"batch_size": 32}))  # fmt: skip
    run = words([stage]).run()
    assert run["grpo"].metrics["steps"] == 3  # 8 prompts a step: 20 / 8, rounded up
    seen = [line["num_tokens"] for line in run["grpo"].history]
    assert len(seen) == 3


CASES: list[tuple[str, Any, str]] = [
    ("no whole groups", lambda: GRPO(lora, batch_size=6, num_generations=4), "is no multiple of it"),
    ("one answer", lambda: RLOO(lora, num_generations=1), "num_generations must be a whole number at least 2"),
    ("no whole steps", lambda: GRPO(lora, batch_size=8, gradient_accumulation=3, num_generations=8,
                                    trainer_args={"steps_per_generation": 2}), "no whole number of optimizer steps"),
    ("TRL's sampling", lambda: GRPO(lora, trainer_args={"top_p": 0.9}), "posttrain samples the answers itself"),
    ("TRL's engine", lambda: RLOO(lora, trainer_args={"use_vllm": True}), "posttrain samples the answers itself"),
    ("TRL's names", lambda: GRPO(lora, trainer_args={"max_completion_length": 9}), "say it as max_new_tokens="),
    ("a negative beta", lambda: GRPO(lora, beta=-0.1), "beta must be"),
    ("no temperature", lambda: GRPO(lora, trainer_args={"temperature": 0.0}), "temperature must be"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused_when_it_is_written(make: Any, text: str) -> None:
    with pytest.raises(SettingError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_too_few_prompts_for_a_rollout(words: Callable[..., Pipeline], prompts: Rows) -> None:
    with pytest.raises(SettingError, match="a rollout takes 8 prompts, and the data has 3"):
        words([GRPO(lora, data=prompts[:3], reward=rivers, **LEARN)]).plan()
