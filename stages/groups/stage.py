"""Policy optimisation without a critic: an answer is as good as it is better than others to the same prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import SettingError

from ...pipeline import ModelRef, Ranks, StageContext, StagePlan
from ...pipeline.settings import check_number, refuse
from ..online import OnlineStage, check_whole_groups
from ..trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..token_tables import Tables
    from ..training import Session


@dataclass(frozen=True)
class GroupStage(OnlineStage):
    """What GRPO and RLOO share. A rollout has `batch_size * gradient_accumulation` answers (`steps_per_generation` in
    trainer_args changes that), `num_generations` to each of its prompts.

    max_steps counts optimizer steps, epochs passes over the prompts.
    """

    beta: float = field(default=0.0, kw_only=True)
    num_generations: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        for name in ("beta", "num_generations"):
            if getattr(self, name) is None:
                refuse(owner, name, None, "a number")
        check_number(owner, "beta", self.beta, least=0.0)
        check_number(owner, "num_generations", self.num_generations, least=2, whole=True)
        for name in ("num_iterations", "steps_per_generation", "generation_batch_size"):
            check_number(f"{owner}(trainer_args)", name, self.trainer_args.get(name), least=1, whole=True)
        check_number(f"{owner}(trainer_args)", "temperature", self.temperature, above=0.0)
        check_whole_groups(owner, self.answers, self.num_generations)
        if (self._batches_per_rollout * self._passes) % self.gradient_accumulation:
            raise SettingError(
                f"{owner}: a rollout of {self.answers} answers is no whole number of optimizer steps of batch_size="
                f"{self.batch_size} times gradient_accumulation={self.gradient_accumulation}; change one of them."
            )

    @property
    def _passes(self) -> int:
        return int(self.trainer_args.get("num_iterations") or 1)

    @property
    def _global_batch(self) -> int:
        return self.batch_size * Ranks.of_environment().size

    @property
    def answers(self) -> int:
        """Of one rollout, over all ranks."""
        whole = self.trainer_args.get("generation_batch_size")
        return int(whole) if whole else self._global_batch * self._batches_per_rollout

    @property
    def _batches_per_rollout(self) -> int:
        whole, given = (self.trainer_args.get(n) for n in ("generation_batch_size", "steps_per_generation"))
        return max(1, int(whole) // self._global_batch) if whole else int(given or self.gradient_accumulation)

    @property
    def prompts_per_rollout(self) -> int:
        return self.answers // self.num_generations

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps."""
        return self._batches_per_rollout * self._passes // self.gradient_accumulation

    def steps(self, prompts: int) -> int:
        """Optimizer steps."""
        if self.max_steps is not None:
            return self.max_steps
        rollouts = math.ceil(prompts * (self.resolved_epochs or 1.0) / self.prompts_per_rollout)
        return rollouts * self.steps_per_rollout

    @property
    def checkpoint_border(self) -> int:
        """TRL keeps a rollout in memory, not in its checkpoint: only between rollouts does a restart lose nothing."""
        return self.steps_per_rollout

    def trainer_arguments(self) -> Mapping[str, Any]:
        return {
            "beta": self.beta,
            "num_generations": self.num_generations,
            "max_completion_length": self.max_new_tokens,
        }

    def open(self, context: StageContext, tables: Tables, tokenizer: Any) -> Session:
        from .session import GroupSession

        return GroupSession(self, context, tables, tokenizer)

    def plan_of_trainer(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        plan = super().plan_of_trainer(inputs)
        if plan.rows < self.prompts_per_rollout:
            raise SettingError(
                f"Stage {self.title}: a rollout takes {self.prompts_per_rollout} prompts, and the data has {plan.rows}; "
                "raise num_generations, lower batch_size or gradient_accumulation, or give more prompts."
            )
        return plan


@dataclass(frozen=True)
class GRPO(GroupStage):
    """Group relative policy optimisation (Shao et al., arXiv 2402.03300), on TRL's trainer.

    num_generations: answers to each prompt; an advantage is the reward's distance from their mean.
    beta: weight of the KL to the reference in the loss; 0, as TRL has it, holds the policy by clipping alone.

    >>> GRPO(LoRA(r=16), data="problems.jsonl", reward=is_right)     # doctest: +SKIP
    """

    trainer: ClassVar[TrainerKind] = "grpo"
    full_learning_rate: ClassVar[float] = 1e-6


@dataclass(frozen=True)
class RLOO(GroupStage):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al., arXiv 2402.14740), on TRL's trainer.

    num_generations: answers to each prompt; the baseline of one is the mean reward of the others.
    beta: weight of the KL to the reference, taken from an answer's reward.

    >>> RLOO(LoRA(r=16), data="prompts.jsonl", reward=is_polite)     # doctest: +SKIP
    """

    beta: float = field(default=0.05, kw_only=True)
    num_generations: int = field(default=2, kw_only=True)

    trainer: ClassVar[TrainerKind] = "rloo"
    full_learning_rate: ClassVar[float] = 1e-6
