"""Every formula of PPO against a plain NumPy reference in float64, written from the papers, on random cases."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.stages.ppo.formulas import (
    KLController,
    RunningMoments,
    above_the_others,
    explained_variance,
    generalized_advantages,
    policy_losses,
    token_kl,
    token_rewards,
    value_losses,
    whiten,
)

SEEDS = range(20)


def draw(seed: int, rows: int = 5, width: int = 9) -> dict[str, Any]:
    """Random float64 arrays (rows, width) of answers of random lengths, 0 behind their ends."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(np.float64)

    def noise() -> Any:
        return random.normal(size=(rows, width)) * mask

    return {"lengths": lengths, "mask": mask, "rewards": noise(), "values": noise(), "old": noise() - 2,
            "new": noise() - 2, "advantages": noise(), "returns": noise(), "scores": random.normal(size=rows)}  # fmt: skip


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


def same(mine: torch.Tensor, reference: Any) -> bool:
    return bool(np.allclose(mine.numpy(), reference, rtol=1e-10, atol=1e-12))


@pytest.mark.parametrize("seed", SEEDS)
def test_advantages_are_the_discounted_sum_of_deltas(seed: int) -> None:
    """A_t = sum_k (gamma lam)^k delta_{t+k}, summed as the paper writes it, not by recursion."""
    case = draw(seed)
    gamma, lam = 0.97, 0.9
    expected = np.zeros_like(case["values"])
    for row, length in enumerate(case["lengths"]):
        values = [*case["values"][row, :length], 0.0]
        deltas = [case["rewards"][row, t] + gamma * values[t + 1] - values[t] for t in range(length)]
        for t in range(length):
            expected[row, t] = sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t))
    advantages, returns = generalized_advantages(
        tensor(case["rewards"]), tensor(case["values"]), tensor(case["mask"]), gamma, lam
    )
    assert same(advantages, expected)
    assert same(returns, expected + case["values"])


def test_with_lambda_1_the_return_is_what_came() -> None:
    case = draw(1)
    _, returns = generalized_advantages(
        tensor(case["rewards"]), tensor(case["values"]), tensor(case["mask"]), 1.0, 1.0
    )
    to_come = np.cumsum(case["rewards"][:, ::-1], 1)[:, ::-1] * case["mask"]
    assert same(returns, to_come)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_stands_behind_an_answer_changes_nothing(seed: int) -> None:
    case = draw(seed)
    dirt = np.random.default_rng(seed).normal(size=case["mask"].shape) * (1 - case["mask"])
    clean = generalized_advantages(
        tensor(case["rewards"]), tensor(case["values"]), tensor(case["mask"]), 0.9, 0.8
    )
    dirty = generalized_advantages(
        tensor(case["rewards"]), tensor(case["values"] + dirt), tensor(case["mask"]), 0.9, 0.8
    )
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_whitened_values_have_mean_0_and_variance_1(seed: int) -> None:
    case = draw(seed, rows=8)
    at = case["mask"] > 0
    mean, std = case["values"][at].mean(), case["values"][at].std(ddof=1)
    expected = (case["values"] - mean) / np.sqrt(std**2 + 1e-8) * case["mask"]
    assert same(whiten(tensor(case["values"]), tensor(case["mask"])), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_token_rewards(seed: int) -> None:
    case = draw(seed)
    kl = case["new"] - case["old"]
    expected = -0.3 * kl * case["mask"]
    for row, length in enumerate(case["lengths"]):
        expected[row, length - 1] += case["scores"][row]
    mine = token_rewards(tensor(case["scores"]), tensor(kl), tensor(case["mask"]), 0.3)
    assert same(mine, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_score_is_seen_against_the_other_answers_to_its_prompt(seed: int) -> None:
    random = np.random.default_rng(seed)
    prompts, scores = random.integers(0, 4, 11), random.normal(size=11)
    expected = scores.copy()
    for place, prompt in enumerate(prompts):
        others = [scores[i] for i in range(11) if i != place and prompts[i] == prompt]
        expected[place] -= np.mean(others) if others else 0.0
    assert same(above_the_others(tensor(scores), prompts.tolist()), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_policy_losses(seed: int) -> None:
    case = draw(seed)
    expected, decided = np.zeros_like(case["mask"]), np.zeros_like(case["mask"], dtype=bool)
    for at in np.ndindex(expected.shape):
        ratio = math.exp(case["new"][at] - case["old"][at])
        gain = case["advantages"][at]
        plain, clipped = ratio * gain, min(max(ratio, 0.8), 1.2) * gain
        expected[at], decided[at] = -min(plain, clipped), clipped < plain
    losses, by_clip = policy_losses(tensor(case["new"]), tensor(case["old"]), tensor(case["advantages"]), 0.2)
    assert same(losses, expected)
    assert (by_clip.numpy() == decided).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_value_losses(seed: int) -> None:
    case = draw(seed)
    values, old, returns = case["values"], case["rewards"], case["returns"]
    held = old + np.clip(values - old, -0.2, 0.2)
    expected = 0.5 * np.maximum((values - returns) ** 2, (held - returns) ** 2)
    losses, by_clip = value_losses(tensor(values), tensor(old), tensor(returns), 0.2)
    assert same(losses, expected)
    assert (by_clip.numpy() == ((held - returns) ** 2 > (values - returns) ** 2)).all()


def test_kl_estimators_mean_the_exact_kl() -> None:
    """Over every token of a small vocabulary, weighted by its probability, both give KL(p || q); k3 is never negative."""
    random = np.random.default_rng(0)
    for _ in range(20):
        p, q = (np.exp(x) / np.exp(x).sum() for x in random.normal(size=(2, 6)))
        exact = (p * np.log(p / q)).sum()
        for estimator in ("k1", "k3"):
            values = token_kl(tensor(np.log(p)[None]), tensor(np.log(q)[None]), estimator)  # type: ignore[arg-type]
            assert float((tensor(p[None]) * values).sum()) == pytest.approx(exact, rel=1e-10)
            assert estimator == "k1" or bool((values >= 0).all())


def test_explained_variance() -> None:
    case = draw(4)
    returns, mask = tensor(case["returns"]), tensor(case["mask"])
    at = case["mask"] > 0
    assert explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(returns, 7.0), returns, mask) == pytest.approx(0.0, abs=1e-12)
    expected = 1 - np.var((case["returns"] - case["values"])[at]) / np.var(case["returns"][at])
    assert explained_variance(tensor(case["values"]), returns, mask) == pytest.approx(expected, rel=1e-10)
    assert math.isnan(explained_variance(returns, torch.ones_like(returns), mask))


def test_the_controller_follows_its_target() -> None:
    controller = KLController(0.1, target=6.0, horizon=100)
    assert controller.updated(6.0, 10).coefficient == pytest.approx(0.1)
    assert controller.updated(6.6, 10).coefficient == pytest.approx(0.1 * (1 + 0.1 * 10 / 100))
    assert controller.updated(60.0, 10).coefficient == pytest.approx(
        0.1 * (1 + 0.2 * 10 / 100)
    )  # held at +0.2
    assert controller.updated(0.0, 10).coefficient == pytest.approx(0.1 * (1 - 0.2 * 10 / 100))
    assert KLController(0.1).updated(60.0, 10).coefficient == 0.1
    # a policy whose KL falls as the penalty grows comes to the target
    kl = 30.0
    for _ in range(400):
        controller = controller.updated(kl, 32)
        kl = 0.9 * kl + 0.1 * (0.9 / controller.coefficient)
    assert kl == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_running_moments_are_those_of_all_values(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(3, 2, size=size) for size in (1, 7, 32, 5)]
    moments = RunningMoments()
    for part in parts:
        moments = moments.updated(part)
    everything = np.concatenate(parts)
    assert moments.mean == pytest.approx(everything.mean(), rel=1e-12)
    assert moments.std == pytest.approx(everything.std(), rel=1e-12)
    assert moments.count == len(everything)
