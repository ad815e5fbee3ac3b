"""From a rollout to what the update learns from: rewards per token, values, advantages.

# N answers of a rollout, T tokens of the longest one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..online.rollouts import Rollout, Rollouts
from .formulas import (
    KLController,
    RunningMoments,
    above_the_others,
    explained_variance,
    generalized_advantages,
    token_kl,
    token_rewards,
    whiten,
)
from .update import Scored

if TYPE_CHECKING:
    from .stage import PPO


def prepare(
    rollouts: Rollouts,
    rollout: Rollout,
    stage: PPO,
    controller: KLController,
    moments: RunningMoments,
) -> tuple[Scored, RunningMoments, dict[str, float]]:
    """(what is learned from, the running statistics with this rollout, numbers to log)."""
    arguments, mask_NT, values_NT = stage.arguments, rollout.mask_NT, _values(rollouts, rollout)
    moments = moments.updated(rollout.scores)
    kl_NT = token_kl(rollout.log_probs_NT, rollout.reference_NT, arguments.kl_estimator)
    rewards_NT = token_rewards(_scores(rollout, stage, moments), kl_NT, mask_NT, controller.coefficient)
    if arguments.whiten_rewards:
        mean = (rewards_NT * mask_NT).sum() / mask_NT.sum()
        rewards_NT = whiten(rewards_NT, mask_NT) + mean * mask_NT
    advantages_NT, returns_NT = generalized_advantages(
        rewards_NT, values_NT, mask_NT, arguments.gamma, arguments.lam
    )
    learned_NT = whiten(advantages_NT, mask_NT) if arguments.whiten_advantages else advantages_NT
    scored = Scored(rollout.prompts, rollout.ids, rollout.log_probs_NT, values_NT, learned_NT, returns_NT)
    return (
        scored,
        moments,
        rollout.numbers()
        | {
            "explained_variance": explained_variance(values_NT, returns_NT, mask_NT),
            "advantage": float((advantages_NT * mask_NT).sum() / mask_NT.sum()),
            "value": float((values_NT * mask_NT).sum() / mask_NT.sum()),
        },
    )


def _values(rollouts: Rollouts, rollout: Rollout) -> Tensor:
    """(N, T): what the critic expects at the time of sampling."""
    if rollout.values_NT is not None:
        return rollout.values_NT
    values_NT = torch.zeros_like(rollout.mask_NT)
    with torch.no_grad():
        for chosen, batch in rollouts.batches(rollout):
            values_NT[chosen, : batch.mask_BT.shape[1]] = rollouts.roles.values(batch).cpu()
    return rollouts.add(values_NT)


def _scores(rollout: Rollout, stage: PPO, moments: RunningMoments) -> Tensor:
    """(N,): scaled, clipped, less the penalty of answers that were cut, and less what a prompt's other answers got."""
    arguments, scores_N = stage.arguments, torch.tensor(rollout.scores)
    if arguments.scale_rewards and moments.std > 0:
        scores_N = scores_N / moments.std
    if arguments.reward_clip is not None:
        scores_N = scores_N.clamp(-arguments.reward_clip, arguments.reward_clip)
    cut_N = torch.tensor([not answer.stopped for answer in rollout.answers]).float()
    scores_N = scores_N - arguments.missing_eos_penalty * cut_N
    return above_the_others(scores_N, rollout.rows) if stage.num_generations > 1 else scores_N
