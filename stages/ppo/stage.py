"""Proximal policy optimisation: answer, be scored, and make better answers likelier, without leaving the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from posttrain.errors import PipelineError, SettingError

from ...data_formats import Kind
from ...pipeline import ModelRef, Setting, Stage, StageContext, StagePlan
from ...pipeline.settings import CheckedSettings, as_plain, check_choice, check_number, refuse, refuse_unknown
from ..reward_model import RewardModel
from ..strategies import LoRA, Strategy
from ..token_tables import Request
from ..training_stage import TrainingStage
from .rewards import RewardModelRef, RewardSource, check_source, identity_of, name_of, reward_model_of

if TYPE_CHECKING:
    from ..token_tables import Tables
    from ..training import Session


# Those of transformers that need nothing but the number of steps.
_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt")


@dataclass(frozen=True)
class PPOArguments(CheckedSettings):
    """What `trainer_args` of PPO may set; the names are TRL's where TRL's PPO had them.

    num_ppo_epochs: passes over each rollout. num_mini_batches: optimizer steps per pass.
    gamma, lam: discount, and the GAE's. cliprange, cliprange_value: of the ratio, and of the value's move.
    entropy_coef: weight of an entropy bonus. vf_coef: weight of the value loss where the critic shares the policy's
    parameters. critic_learning_rate: None is what a reward model is trained with. max_grad_norm: of policy and critic each.
    kl_estimator: "k1" or "k3". kl_horizon: answers over which the coefficient follows target_kl.
    stop_kl: nats per token between old and new policy above which the rest of a rollout's updates is left out.
    missing_eos_penalty: taken from the score of an answer that was cut. whiten_advantages, whiten_rewards: to mean 0,
    variance 1 (rewards keep their mean). scale_rewards: divide scores by their running standard deviation.
    reward_clip: scores are held within +- this. value_warmup_steps: first PPO steps that train the critic alone.
    temperature: of sampling and of every log-probability. lr_scheduler_type, warmup_steps: as in transformers.
    """

    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    entropy_coef: float = 0.0
    vf_coef: float = 0.1
    critic_learning_rate: float | None = None
    max_grad_norm: float = 1.0
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_horizon: int = 1000
    stop_kl: float = 0.1
    missing_eos_penalty: float = 0.0
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    scale_rewards: bool = False
    reward_clip: float | None = None
    value_warmup_steps: int = 0
    temperature: float = 1.0
    lr_scheduler_type: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        owner = "PPO(trainer_args)"
        for name in ("num_ppo_epochs", "num_mini_batches", "kl_horizon"):
            check_number(owner, name, getattr(self, name), least=1, whole=True)
        for name in ("value_warmup_steps", "warmup_steps"):
            check_number(owner, name, getattr(self, name), least=0, whole=True)
        for name in ("cliprange", "cliprange_value", "max_grad_norm", "stop_kl", "temperature", "reward_clip",
                     "critic_learning_rate"):  # fmt: skip
            check_number(owner, name, getattr(self, name), above=0.0)
        for name in ("gamma", "lam", "entropy_coef", "vf_coef", "missing_eos_penalty"):
            check_number(owner, name, getattr(self, name), least=0.0)
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                refuse(owner, name, getattr(self, name), "a number from 0 to 1")
        check_choice(owner, "kl_estimator", self.kl_estimator, ("k1", "k3"))
        check_choice(owner, "lr_scheduler_type", self.lr_scheduler_type, _SCHEDULES)
        for setting in fields(self):
            if getattr(self, setting.name) is None and setting.default is not None:
                refuse(owner, setting.name, None, f"a value such as {setting.default!r}")


@dataclass(frozen=True)
class PPO(TrainingStage):
    """PPO with one frozen base for policy, reference, reward model and critic (Schulman et al., arXiv 1707.06347).

    One step: `batch_size * gradient_accumulation * num_mini_batches` prompts are answered and scored, then the policy
    is updated `num_ppo_epochs` times on them. max_steps counts such steps, epochs passes over the prompts.

    reward: None takes the reward model of an earlier stage; or a function f(prompts, completions, **columns) -> list
    of numbers, a RewardModelRef, or a list of these. reward_weights: one number for each of them.
    judge: one more reward that is only watched: when it falls while the reward rises, the reward is being hacked.
    max_new_tokens: of an answer. kl_coef: weight of the KL penalty to the reference, per token. target_kl: nats per
    answer that the coefficient is steered to; None keeps it fixed.
    critic: "adapter" (one of its own, started from the reward model) or "shared" (a head on the policy).
    gate: the share of held-out pairs that the reward model must have ranked rightly; None lets any pass.
    trainer_args: any field of PPOArguments.

    >>> PPO(LoRA(r=16), data="prompts.jsonl", max_new_tokens=64)     # doctest: +SKIP
    """

    reward: RewardSource | Sequence[RewardSource] | None = field(default=None, kw_only=True)
    reward_weights: Sequence[float] | None = field(default=None, kw_only=True)
    judge: RewardSource | None = field(default=None, kw_only=True)
    max_new_tokens: int = field(default=64, kw_only=True)
    kl_coef: float = field(default=0.05, kw_only=True)
    target_kl: float | None = field(default=None, kw_only=True)
    critic: Literal["adapter", "shared"] = field(default="adapter", kw_only=True)
    gate: float | None = field(default=0.6, kw_only=True)

    kind: ClassVar[Kind] = "prompt"
    full_learning_rate: ClassVar[float] = 3e-6
    has_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "kl_coef"):
            if getattr(self, name) is None:
                refuse("PPO", name, None, "a number")
        check_number("PPO", "max_new_tokens", self.max_new_tokens, least=1, whole=True)
        check_number("PPO", "kl_coef", self.kl_coef, least=0.0)
        check_number("PPO", "target_kl", self.target_kl, above=0.0)
        check_number("PPO", "gate", self.gate, least=0.0)
        if self.gate is not None and self.gate > 1:
            refuse("PPO", "gate", self.gate, "a share from 0 to 1")
        check_choice("PPO", "critic", self.critic, ("adapter", "shared"))
        if self.max_new_tokens >= self.max_length:
            raise SettingError(
                f"PPO(max_new_tokens={self.max_new_tokens}, max_length={self.max_length}): max_length holds prompt and "
                "answer, so nothing is left for the prompt; lower max_new_tokens or raise max_length."
            )
        for source in self._given:
            check_source("PPO", source)
        self._check_weights()

    def _check_weights(self) -> None:
        if self.reward_weights is None:
            return
        weights, count = list(self.reward_weights), max(1, len(self.sources))
        if len(weights) != count:
            raise SettingError(
                f"PPO(reward_weights={weights!r}): there are {count} rewards; give {count} weights."
            )
        for weight in weights:
            check_number("PPO", "reward_weights", weight)

    def check_trainer_args(self) -> None:
        refuse_unknown("PPO(trainer_args=...)", self.trainer_args, [f.name for f in fields(PPOArguments)])
        PPOArguments(**self.trainer_args)

    @property
    def arguments(self) -> PPOArguments:
        return PPOArguments(**self.trainer_args)

    @property
    def sources(self) -> tuple[RewardSource, ...]:
        """The rewards that are given here; none when an earlier stage makes the reward model."""
        if self.reward is None:
            return ()
        return tuple(self.reward) if isinstance(self.reward, (list, tuple)) else (self.reward,)  # type: ignore[return-value]

    @property
    def _given(self) -> tuple[RewardSource, ...]:
        return (*self.sources, *(() if self.judge is None else (self.judge,)))

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("policy",) if self.sources else ("policy", "reward")

    def check(self, before: Sequence[Stage]) -> None:
        super().check(before)
        for source in self._given:
            if isinstance(source, RewardModelRef):
                reward_model_of(source)
        if self.sources:
            return
        makers = [number for number, stage in enumerate(before) if stage.makes == "reward"]
        later = (
            [stage.title for stage in before[makers[-1] + 1 :] if stage.makes == "policy"] if makers else []
        )
        if later:
            raise PipelineError(
                f"Stage {self.title} shares one base with the reward model of stage {before[makers[-1]].title}, and "
                f"{later[0]} changes the policy after it; put {before[makers[-1]].title} behind {later[-1]}."
            )

    @property
    def rollout_size(self) -> int:
        """Answers of one PPO step, over all ranks."""
        return self.batch_size * self.gradient_accumulation * self.arguments.num_mini_batches

    @property
    def request(self) -> Request:
        overlong = self.overlong or self.default_overlong
        return Request(self.data, self.eval_data, self.kind, self.max_length - self.max_new_tokens, overlong)

    @property
    def critic_learning_rate(self) -> float:
        given = self.arguments.critic_learning_rate
        return given or RewardModel.full_learning_rate * self.strategy.learning_rate_factor

    def steps(self, prompts: int) -> int:
        """PPO steps."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(prompts * (self.resolved_epochs or 1.0) / self.rollout_size)

    @property
    def trained_beside(self) -> Strategy | None:
        """The critic's adapter."""
        if self.critic == "shared":
            return None
        return LoRA() if self.strategy.capabilities.makes_base else self.strategy

    def longest_sequence(self, longest_row: int) -> int:
        return min(longest_row, self.max_length - self.max_new_tokens) + self.max_new_tokens

    def identity(self) -> Mapping[str, Any]:
        judge = None if self.judge is None else dict(identity_of(self.judge))
        return {
            **super().identity(),
            "reward": [dict(identity_of(source)) for source in self.sources],
            "judge": judge,
        }

    def settings(self) -> tuple[Setting, ...]:
        of_trl = ("bf16", "gradient_checkpointing")  # its trainers' way of saving memory; PPO has none yet
        given = {setting.name: setting for setting in super().settings() if setting.name not in of_trl}
        names = [name_of(source) for source in self.sources]
        given["reward"] = Setting("reward", ", ".join(names) or "the reward model of an earlier stage",
                                  "given" if names else "default of PPO")  # fmt: skip
        if self.judge is not None:
            given["judge"] = Setting("judge", name_of(self.judge), "given")
        for name, value in as_plain(self.arguments).items():
            if name != "type" and name not in self.trainer_args:
                given[name] = Setting(name, value, "default of PPOArguments")
        return tuple(given.values())

    def open(self, context: StageContext, tables: Tables, tokenizer: Any) -> Session:
        from .session import PPOSession

        return PPOSession(self, context, tables, tokenizer)

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        from ..planning import plan_stage

        return plan_stage(self, inputs["policy"])

    def measuring(self, model: Any, held_out: Any, pad_id: int) -> Any:
        raise AssertionError("PPO measures in its session")
