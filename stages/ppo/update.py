"""The updates of policy and critic on one rollout.

# B answers of a micro-batch, T tokens of the longest one
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...pipeline import Ranks
from ..online.roles import Batch, Roles
from ..rates import by_parameter, split_by_rate
from ..strategies import Schedule
from .formulas import policy_losses, value_losses

if TYPE_CHECKING:
    from .pretraining import PretrainingRows
    from .stage import PPO


@dataclass(frozen=True)
class Scored:
    """A rollout that is ready to be learned from: answers, and per token what the update needs, all (N, T)."""

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    log_probs_NT: Tensor  # of the sampling policy
    values_NT: Tensor  # of the critic at the time of sampling
    advantages_NT: Tensor
    returns_NT: Tensor

    def rows(self, chosen: Sequence[int], pad_id: int, device: Any) -> tuple[Batch, list[Tensor]]:
        """(batch, [log_probs, values, advantages, returns] each (B, T)) of some rows, cut to their own width."""
        batch = Batch.of([self.prompts[i] for i in chosen], [self.answers[i] for i in chosen], pad_id, device)
        width = batch.mask_BT.shape[1]
        columns = self.log_probs_NT, self.values_NT, self.advantages_NT, self.returns_NT
        return batch, [column[list(chosen), :width].to(device) for column in columns]


@dataclass
class Tally:
    """Sums over tokens of what the updates of one rollout did."""

    tokens: float = 0.0
    policy_loss: float = 0.0
    value_loss: float = 0.0
    pretraining_loss: float = 0.0  # summed over optimizer steps
    clipped: float = 0.0
    value_clipped: float = 0.0
    kl_old_new: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    stopped_early: bool = False

    def over(self, ranks: Ranks) -> Tally:
        """The same, with what each rank summed over its own rows summed over the ranks."""
        others = ranks.gather(self)
        sums = {name: sum(getattr(one, name) for one in others) for name in _OF_ROWS}
        return replace(self, ratio_max=max(one.ratio_max for one in others), **sums)

    def metrics(self) -> dict[str, float]:
        tokens, steps = max(self.tokens, 1.0), max(self.steps, 1)
        return {
            "loss": self.policy_loss / tokens,
            "value_loss": self.value_loss / tokens,
            "clip_fraction": self.clipped / tokens,
            "value_clip_fraction": self.value_clipped / tokens,
            "kl_old_new": self.kl_old_new / tokens,
            "ratio": self.ratio / tokens,
            "ratio_max": self.ratio_max,
            "grad_norm": self.grad_norm / steps,
            "updates": float(self.steps),
            "stopped_early": float(self.stopped_early),
            **({"pretraining_loss": self.pretraining_loss / steps} if self.pretraining_loss else {}),
        }


_OF_ROWS = (
    "policy_loss",
    "value_loss",
    "pretraining_loss",
    "clipped",
    "value_clipped",
    "kl_old_new",
    "ratio",
)


class Updater:
    """Owns the optimizer and its schedule."""

    def __init__(
        self, roles: Roles, stage: PPO, schedule: Schedule, ranks: Ranks, pretraining: PretrainingRows | None
    ) -> None:
        from transformers import get_scheduler

        self._roles, self._arguments = roles, stage.arguments
        self._ranks, self._pretraining = ranks, pretraining
        self._taken = 0  # optimizer steps since the stage began
        self.hooks = stage.strategy.hooks(roles.policy, schedule)
        groups = [
            {"params": roles.policy_parameters, "lr": stage.resolved_learning_rate},
            {"params": roles.critic_parameters, "lr": stage.critic_learning_rate},
        ]
        factors = by_parameter(roles.policy, stage.strategy.rate_factors(roles.policy))
        self.optimizer = torch.optim.AdamW(split_by_rate(groups, factors), weight_decay=0.0)
        self.schedule = get_scheduler(
            self._arguments.lr_scheduler_type, self.optimizer, self._arguments.warmup_steps, schedule.total
        )

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def skip_to(self, steps: int) -> None:
        """Put the schedule where it was after `steps` optimizer steps."""
        self._taken = steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step came before: it came in another process
            for _ in range(steps):
                self.schedule.step()

    def learn(
        self, scored: Scored, *, micro_batch: int, pad_id: int, generator: torch.Generator, critic_alone: bool
    ) -> Tally:
        """`num_ppo_epochs` passes over the rollout in mini-batches, fewer when the policy has moved too far."""
        tally, arguments = Tally(), self._arguments
        for _ in range(arguments.num_ppo_epochs):
            order = torch.randperm(len(scored.answers), generator=generator).tolist()
            for mini in _split(order, arguments.num_mini_batches):
                if not self._step(scored, mini, micro_batch, pad_id, critic_alone, tally):
                    tally.stopped_early = True
                    return tally.over(self._ranks)
        return tally.over(self._ranks)

    def _step(
        self,
        scored: Scored,
        mini: Sequence[int],
        micro_batch: int,
        pad_id: int,
        critic_alone: bool,
        tally: Tally,
    ) -> bool:
        """One optimizer step; none, and False, when KL(old || new) in nats per token is above the limit already.

        The loss of a micro-batch is its share of all tokens of the mini-batch, so that gradients, accumulated and
        added up over the ranks, are those of the whole mini-batch in one.
        """
        tokens = float(sum(len(scored.answers[i]) for i in mini))
        own, kl = [mini[i] for i in self._ranks.mine(len(mini))], 0.0
        # Common beginnings beside each other are computed once on a CPU.
        own.sort(key=lambda i: tuple(scored.prompts[i]))
        for start in range(0, len(own), micro_batch):
            batch, columns = scored.rows(own[start : start + micro_batch], pad_id, self._roles.policy.device)
            kl += self._backward(batch, columns, tokens, critic_alone, tally)
        tally.tokens += tokens
        if sum(self._ranks.gather(kl)) > self._arguments.stop_kl:
            self.optimizer.zero_grad(set_to_none=True)
            return False
        if self._pretraining is not None and not critic_alone:
            tally.pretraining_loss += self._pretraining.backward(
                self._roles, self._ranks, self._taken, len(mini), micro_batch
            )
        self._apply(tally)
        return True

    def _backward(
        self, batch: Batch, columns: Sequence[Tensor], tokens: float, critic_alone: bool, tally: Tally
    ) -> float:
        """Add a micro-batch's gradients; returns its share of KL(old || new), in nats per token of the mini-batch."""
        roles, arguments = self._roles, self._arguments
        temperature, bonus = arguments.temperature, arguments.entropy_coef > 0
        if roles.critic_is_shared:  # one pass, one backward
            log_probs_BT, entropy_BT, values_BT = roles.log_probs_and_values(
                batch, temperature, entropy_gradient=bonus
            )
            loss, kl = self._policy_loss(log_probs_BT, entropy_BT, batch, columns, tokens, tally)
            of_values = arguments.vf_coef * self._value_loss(values_BT, batch, columns, tokens, tally)
            (of_values if critic_alone else loss + of_values).backward()
            return kl
        # One after the other in calls of their own: nothing of the policy's pass is alive in the critic's.
        kl = self._policy_backward(batch, columns, tokens, critic_alone, tally)
        with roles.as_role("critic"):
            self._value_loss(roles.values(batch), batch, columns, tokens, tally).backward()
        return kl

    def _policy_backward(
        self, batch: Batch, columns: Sequence[Tensor], tokens: float, critic_alone: bool, tally: Tally
    ) -> float:
        arguments = self._arguments
        with torch.set_grad_enabled(not critic_alone), self._roles.as_role("policy"):
            log_probs_BT, entropy_BT = self._roles.log_probs(
                batch, "policy", arguments.temperature, entropy_gradient=arguments.entropy_coef > 0
            )
            loss, kl = self._policy_loss(log_probs_BT, entropy_BT, batch, columns, tokens, tally)
            if not critic_alone:
                loss.backward()
        return kl

    def _policy_loss(
        self,
        log_probs_BT: Tensor,
        entropy_BT: Tensor,
        batch: Batch,
        columns: Sequence[Tensor],
        tokens: float,
        tally: Tally,
    ) -> tuple[Tensor, float]:
        old_BT, _, advantages_BT, _ = columns
        arguments, mask_BT = self._arguments, batch.mask_BT
        losses_BT, clipped_BT = policy_losses(log_probs_BT, old_BT, advantages_BT, arguments.cliprange)
        loss = ((losses_BT - arguments.entropy_coef * entropy_BT) * mask_BT).sum() / tokens
        with torch.no_grad():
            log_ratio_BT = (log_probs_BT - old_BT) * mask_BT
            ratio_BT = torch.exp(log_ratio_BT) * mask_BT
            kl = float((torch.expm1(log_ratio_BT) - log_ratio_BT).sum())  # k3 of KL(old || new)
            tally.policy_loss += float((losses_BT * mask_BT).sum())
            tally.clipped += float((clipped_BT * mask_BT).sum())
            tally.kl_old_new += kl
            tally.ratio += float(ratio_BT.sum())
            tally.ratio_max = max(tally.ratio_max, float(ratio_BT.max()))
        return loss, kl / tokens

    def _value_loss(
        self, values_BT: Tensor, batch: Batch, columns: Sequence[Tensor], tokens: float, tally: Tally
    ) -> Tensor:
        _, old_BT, _, returns_BT = columns
        losses_BT, clipped_BT = value_losses(values_BT, old_BT, returns_BT, self._arguments.cliprange_value)
        tally.value_loss += float((losses_BT.detach() * batch.mask_BT).sum())
        tally.value_clipped += float((clipped_BT * batch.mask_BT).sum())
        return (losses_BT * batch.mask_BT).sum() / tokens

    def _add_gradients(self) -> None:
        """Over the ranks, each of which has those of its rows: one sum for all parameters."""
        if self._ranks.size == 1:
            return
        parameters = [*self._roles.policy_parameters, *self._roles.critic_parameters]
        flat = torch.cat([
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters
        ])  # fmt: skip
        at, summed = 0, self._ranks.add(flat)
        for parameter in parameters:
            parameter.grad = summed[at : at + parameter.numel()].view_as(parameter).to(parameter.dtype)
            at += parameter.numel()

    def _apply(self, tally: Tally) -> None:
        self._add_gradients()
        limit = self._arguments.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self._roles.policy_parameters, limit)
        torch.nn.utils.clip_grad_norm_(self._roles.critic_parameters, limit)
        self.hooks.before_step()
        self.optimizer.step()
        self.hooks.after_step(self._taken + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        tally.grad_norm += float(norm)
        tally.steps += 1
        self._taken += 1


def _split(order: Sequence[int], parts: int) -> list[Sequence[int]]:
    size = -(-len(order) // parts)
    return [order[at : at + size] for at in range(0, len(order), size)]
