"""What PPO computes, as pure functions of tensors.

# B answers, T tokens of the longest one; mask_BT is 1 on the tokens of an answer and 0 behind them

Sources: PPO, Schulman et al., arXiv 1707.06347; GAE, Schulman et al., arXiv 1506.02438; PPO on language models with
a penalty and its controller, Ziegler et al., arXiv 1909.08593; k1 and k3, J. Schulman, "Approximating KL divergence".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k3"]


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens of all answers; 0 of none."""
    return (values_BT * mask_BT).sum() / mask_BT.sum().clamp(min=1)


def whiten(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Values with mean 0 and (unbiased) variance 1 over the tokens of all answers; 0 behind them."""
    mean = masked_mean(values_BT, mask_BT)
    variance = ((values_BT - mean) ** 2 * mask_BT).sum() / (mask_BT.sum() - 1).clamp(min=1)
    return (values_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT


def token_kl(log_probs_BT: Tensor, reference_BT: Tensor, estimator: KLEstimator) -> Tensor:
    """One-sample estimates of KL(policy || reference) per token, in nats.

    k1 = log p - log q, unbiased, may be negative. k3 = q/p - 1 - log(q/p), unbiased, never negative, less noisy.
    """
    log_ratio_BT = log_probs_BT - reference_BT
    if estimator == "k1":
        return log_ratio_BT
    return torch.expm1(-log_ratio_BT) + log_ratio_BT


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coefficient: float) -> Tensor:
    """-kl_coefficient * KL on every token, and the score of the answer on its last one."""
    rewards_BT = -kl_coefficient * kl_BT * mask_BT
    last_B = mask_BT.sum(1).long() - 1
    return rewards_BT.index_put(
        (torch.arange(len(score_B), device=score_B.device), last_B), score_B.to(rewards_BT), accumulate=True
    )


def above_the_others(scores_N: Tensor, prompts: Sequence[int]) -> Tensor:
    """(N,): each score less the mean of the other answers' to its prompt; as it is where a prompt has one answer.

    The leave-one-out baseline of RLOO (Ahmadian et al., arXiv 2402.14740): it does not depend on the answer it is
    taken from, so the policy's gradient keeps its expectation.
    """
    of = torch.tensor(prompts, device=scores_N.device)
    same_NN = (of[:, None] == of[None, :]).to(scores_N)
    others_N = same_NN.sum(1) - 1
    return scores_N - (same_NN @ scores_N - scores_N) / others_N.clamp(min=1)


def generalized_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (B, T), by GAE.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t. The value behind
    the last token is 0: an answer that was cut ends there like one that stopped.
    """
    advantages_BT = torch.zeros_like(values_BT)
    values_BT = values_BT * mask_BT
    running_B = torch.zeros_like(values_BT[:, 0])
    next_value_B = torch.zeros_like(running_B)
    for t in range(values_BT.shape[1] - 1, -1, -1):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = (delta_B + gamma * lam * running_B) * mask_BT[:, t]
        advantages_BT[:, t] = running_B
        next_value_B = values_BT[:, t]
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def policy_losses(
    log_probs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """(loss, whether the clip decides it), both (B, T): -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)."""
    ratio_BT = torch.exp(log_probs_BT - old_BT)
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT


def value_losses(values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(loss, whether the clip decides it), both (B, T): half the larger squared error of V and of V held near the old."""
    clipped_BT = torch.minimum(torch.maximum(values_BT, old_BT - clip), old_BT + clip)
    plain_BT, held_BT = (values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2
    return 0.5 * torch.maximum(plain_BT, held_BT), held_BT > plain_BT


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(return - V) / Var(return): 1 is a perfect critic, 0 one that knows only the mean. NaN of equal returns."""
    at = mask_BT > 0
    spread = returns_BT[at].double().var(correction=0)
    error = (returns_BT - values_BT)[at].double().var(correction=0)
    return float(1 - error / spread) if spread > 0 else float("nan")


@dataclass(frozen=True)
class KLController:
    """The coefficient of the KL penalty: fixed, or moved so that the KL of an answer comes to `target` nats.

    c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), n answers seen (Ziegler et al., section 2.2; n / horizon
    is its gain).
    """

    coefficient: float
    target: float | None = None
    horizon: int = 1000  # answers

    def updated(self, kl: float, answers: int) -> KLController:
        """After a rollout of `answers` answers with a mean KL of `kl` nats each."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return replace(self, coefficient=self.coefficient * (1.0 + error * answers / self.horizon))


@dataclass(frozen=True)
class RunningMoments:
    """Mean and variance of all scores so far (Chan et al. 1979), for scaling rewards."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean

    @property
    def std(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count else 0.0

    def updated(self, values: Any) -> RunningMoments:
        """With one more batch of values of each rank: (N,)."""
        values = torch.as_tensor(values, dtype=torch.float64)
        count, total = float(len(values)), values.sum()
        mean = total / count
        squares = ((values - mean) ** 2).sum()
        number, difference = self.count + float(count), float(mean) - self.mean
        return RunningMoments(
            count=number,
            mean=self.mean + difference * float(count) / number,
            squares=self.squares + float(squares) + difference**2 * self.count * float(count) / number,
        )
