"""From prompts to what the update learns from: answers, log-probabilities, rewards, advantages.

# N answers of a rollout, T tokens of the longest one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posttrain.errors import TrainingDivergedError

from .formulas import (
    KLController,
    RunningMoments,
    explained_variance,
    generalized_advantages,
    token_kl,
    token_rewards,
    whiten,
)
from .health import correlation, repetition
from .judges import JUDGE, Judges
from .rewards import Answered
from .roles import Batch, Roles
from .rollout import Answer, Sampler
from .update import Scored

if TYPE_CHECKING:
    from ...data_formats import TokenTable
    from .stage import PPOArguments


@dataclass(frozen=True)
class Rollout:
    """Answers to some prompts, and what the policy, the reference and the rewards say of them. (N, T) tensors."""

    rows: Sequence[int]
    prompts: Sequence[Sequence[int]]
    answers: Sequence[Answer]
    texts: Sequence[str]
    scores: Sequence[float]  # as the rewards gave them, weighted and added up
    parts: Mapping[str, Sequence[float]]  # each reward's own
    log_probs_NT: Tensor
    reference_NT: Tensor
    entropy_NT: Tensor
    mask_NT: Tensor

    @property
    def kl_N(self) -> Tensor:
        """Nats per answer, log p - log q summed over its tokens."""
        return ((self.log_probs_NT - self.reference_NT) * self.mask_NT).sum(1)


class Experience:
    """Lets the policy answer and everybody judge; changes nothing but the rows it is asked for."""

    def __init__(
        self,
        roles: Roles,
        judges: Judges,
        sampler: Sampler,
        tokenizer: Any,
        arguments: PPOArguments,
        micro_batch: int,
    ) -> None:
        self._roles, self._judges, self._sampler, self._tokenizer = roles, judges, sampler, tokenizer
        self._arguments, self._micro_batch = arguments, micro_batch
        self._pad_id, self._device = int(tokenizer.pad_token_id), roles.policy.device

    def answer(self, table: TokenTable, rows: Sequence[int], seeds: Sequence[int]) -> Rollout:
        """Sample an answer to each prompt, and take the log-probabilities and rewards of all of them."""
        prompts = [table.row(row)["prompt_ids"] for row in rows]
        answers = self._sampler.sample(prompts, seeds)
        ids = [answer.ids for answer in answers]
        texts = self._tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)
        if not any(text.strip() for text in texts):
            raise TrainingDivergedError(
                f"The policy says nothing: all of {len(texts)} answers are empty. Train it with SFT first, or lower "
                "learning_rate."
            )
        records = [table.records[row] for row in rows]
        names = list(dict.fromkeys(name for record in records for name in record["columns"]))
        answered = Answered(
            prompts, ids, [record["prompt"] for record in records], [text.strip() for text in texts],
            {name: [record["columns"].get(name) for record in records] for name in names},
        )  # fmt: skip
        scores, parts = self._judges.score(answered)
        width = max(map(len, ids))
        policy, reference, entropy, mask = (torch.zeros(len(rows), width) for _ in range(4))
        for chosen in _by_length(prompts, ids, self._micro_batch):
            batch = Batch.of(
                [prompts[i] for i in chosen], [ids[i] for i in chosen], self._pad_id, self._device
            )
            span = (chosen, slice(0, batch.mask_BT.shape[1]))
            with torch.no_grad():
                policy[span], entropy[span] = (
                    x.cpu() for x in self._roles.log_probs(batch, "policy", self._arguments.temperature)
                )
                reference[span] = self._roles.log_probs(batch, "reference", self._arguments.temperature)[
                    0
                ].cpu()
            mask[span] = batch.mask_BT.cpu()
        return Rollout(list(rows), prompts, answers, texts, scores, parts, policy, reference, entropy, mask)

    def prepare(
        self, rollout: Rollout, controller: KLController, moments: RunningMoments
    ) -> tuple[Scored, RunningMoments, dict[str, float]]:
        """Rewards per token, values, advantages; the running statistics with this rollout; numbers to log."""
        arguments, mask_NT = self._arguments, rollout.mask_NT
        values_NT = torch.zeros_like(mask_NT)
        ids = [answer.ids for answer in rollout.answers]
        for chosen in _by_length(rollout.prompts, ids, self._micro_batch):
            batch = Batch.of(
                [rollout.prompts[i] for i in chosen],
                [ids[i] for i in chosen],
                self._pad_id,
                self._device,
            )
            with torch.no_grad():
                values_NT[chosen, : batch.mask_BT.shape[1]] = self._roles.values(batch).cpu()
        moments = moments.updated(rollout.scores)
        scores_N = torch.tensor(rollout.scores)
        if arguments.scale_rewards and moments.std > 0:
            scores_N = scores_N / moments.std
        if arguments.reward_clip is not None:
            scores_N = scores_N.clamp(-arguments.reward_clip, arguments.reward_clip)
        cut_N = torch.tensor([not answer.stopped for answer in rollout.answers]).float()
        scores_N = scores_N - arguments.missing_eos_penalty * cut_N
        kl_NT = token_kl(rollout.log_probs_NT, rollout.reference_NT, arguments.kl_estimator)
        rewards_NT = token_rewards(scores_N, kl_NT, mask_NT, controller.coefficient)
        if arguments.whiten_rewards:
            mean = (rewards_NT * mask_NT).sum() / mask_NT.sum()
            rewards_NT = whiten(rewards_NT, mask_NT) + mean * mask_NT
        advantages_NT, returns_NT = generalized_advantages(
            rewards_NT, values_NT, mask_NT, arguments.gamma, arguments.lam
        )
        variance = explained_variance(values_NT, returns_NT, mask_NT)
        learned_NT = whiten(advantages_NT, mask_NT) if arguments.whiten_advantages else advantages_NT
        scored = Scored(rollout.prompts, ids, rollout.log_probs_NT, values_NT, learned_NT, returns_NT)
        numbers = _health_numbers(rollout) | {
            "explained_variance": variance,
            "advantage": float((advantages_NT * mask_NT).sum() / mask_NT.sum()),
            "value": float((values_NT * mask_NT).sum() / mask_NT.sum()),
        }
        return scored, moments, numbers


def _health_numbers(rollout: Rollout) -> dict[str, float]:
    """What a rollout itself says about the policy's health."""
    ids = [answer.ids for answer in rollout.answers]
    lengths = [float(len(i)) for i in ids]
    tokens = float(rollout.mask_NT.sum())
    return {
        "reward": fmean(rollout.scores),
        "reward_std": pstdev(rollout.scores),
        **{name if name == JUDGE else f"reward/{name}": fmean(part) for name, part in rollout.parts.items()},
        "kl": float(rollout.kl_N.mean()),
        "kl_per_token": float(rollout.kl_N.sum()) / tokens,
        "entropy": float((rollout.entropy_NT * rollout.mask_NT).sum()) / tokens,
        "length": fmean(lengths),
        "stopped": fmean(answer.stopped for answer in rollout.answers),
        "reward_length_correlation": correlation(rollout.scores, lengths),
        "repetition": repetition(ids),
    }


def _by_length(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], size: int
) -> list[list[int]]:
    """Rows of similar length together, so that little is computed on padding."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]) - len(answers[i]), i))
    return [order[at : at + size] for at in range(0, len(order), size)]
