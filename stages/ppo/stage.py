"""Proximal policy optimisation: answer, be scored, and make better answers likelier, without leaving the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...data_formats import DataSource, detect
from ...pipeline import ModelRef, Ranks, Setting, Stage, StageContext, StagePlan
from ...pipeline.settings import CheckedSettings, as_plain, check_choice, check_number, refuse, refuse_unknown
from ..online import OnlineStage, check_whole_groups
from ..online.stage import Critic
from ..reward_model import RewardModel
from ..strategies import LoRA, Strategy
from ..token_tables import Request

if TYPE_CHECKING:
    from ..token_tables import Tables
    from ..training import Session


_HIDDEN_ON_A_CPU = 600_000  # numbers in the hidden states of a batch: enough to keep its cores busy
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
    gradient_checkpointing: None is on where plan()'s memory estimate asks for it.
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
    gradient_checkpointing: bool | None = None

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
class PPO(OnlineStage):
    """PPO with one frozen base for policy, reference, reward model and critic (Schulman et al., arXiv 1707.06347).

    One step: `batch_size * gradient_accumulation * num_mini_batches` answers are sampled and scored, then the policy
    is updated `num_ppo_epochs` times on them. max_steps counts such steps, epochs passes over the prompts.

    kl_coef: weight of the KL penalty to the reference, per token. target_kl: nats per answer that the coefficient is
    steered to; None keeps it fixed.
    num_generations: answers to each prompt. Above 1 the mean score of a prompt's other answers is taken from that of
    each (the baseline of RLOO, Ahmadian et al., arXiv 2402.14740), for the critic to explain what is left.
    critic: "adapter" (one of its own, started from the reward model) or "shared" (a head on the policy).
    ptx_data: chats whose language loss is added at each optimizer step, as many rows as answers.
    ptx_coef: what that loss is multiplied with.
    trainer_args: any field of PPOArguments.

    >>> PPO(LoRA(r=16), data="prompts.jsonl", max_new_tokens=64)     # doctest: +SKIP
    """

    kl_coef: float = field(default=0.05, kw_only=True)
    target_kl: float | None = field(default=None, kw_only=True)
    num_generations: int = field(default=1, kw_only=True)
    critic: Critic = field(default="adapter", kw_only=True)
    ptx_data: DataSource | None = field(default=None, kw_only=True)
    ptx_coef: float = field(default=0.1, kw_only=True)

    full_learning_rate: ClassVar[float] = 3e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kl_coef", "num_generations"):
            if getattr(self, name) is None:
                refuse("PPO", name, None, "a number")
        check_number("PPO", "kl_coef", self.kl_coef, least=0.0)
        check_number("PPO", "target_kl", self.target_kl, above=0.0)
        check_number("PPO", "num_generations", self.num_generations, least=1, whole=True)
        check_number("PPO", "ptx_coef", self.ptx_coef, above=0.0)
        check_choice("PPO", "critic", self.critic, ("adapter", "shared"))
        check_whole_groups("PPO", self.rollout_size, self.num_generations)

    def check_trainer_args(self) -> None:
        refuse_unknown("PPO(trainer_args=...)", self.trainer_args, [f.name for f in fields(PPOArguments)])
        PPOArguments(**self.trainer_args)

    @property
    def arguments(self) -> PPOArguments:
        return PPOArguments(**self.trainer_args)

    @property
    def ptx_request(self) -> Request | None:
        """What decides the token table of `ptx_data`; its rows are not held out from."""
        if self.ptx_data is None:
            return None
        return Request(self.ptx_data, self.ptx_data, "conversation", self.max_length, "drop")

    def check(self, before: Sequence[Stage]) -> None:
        super().check(before)
        if self.ptx_data is not None:
            detect(self.ptx_data, "conversation")

    def identity(self) -> Mapping[str, Any]:
        request, plain = self.ptx_request, super().identity()
        kept = {name: value for name, value in plain.items() if name != "ptx_data"}
        return kept if request is None else {**kept, "ptx": request.identity()}

    @property
    def rollout_size(self) -> int:
        """Answers of one PPO step, over all ranks."""
        ranks = Ranks.of_environment().size
        return self.batch_size * self.gradient_accumulation * self.arguments.num_mini_batches * ranks

    @property
    def prompts_per_rollout(self) -> int:
        """Prompts of one PPO step, over all ranks."""
        return self.rollout_size // self.num_generations

    def rows_at_once(self, length: int, hidden: int, on_gpu: bool) -> int:
        """Fewer take less memory, and the gradients are those of the mini-batch however it is cut."""
        return (
            self.batch_size if on_gpu else min(self.batch_size, max(1, _HIDDEN_ON_A_CPU // (length * hidden)))
        )

    @property
    def split_share(self) -> float:
        """Policy and critic leave theirs one after the other."""
        shared, own = (1.0, 1.2) if self.strategy.joins_products else (1.6, 2.1)
        return shared if self.critic == "shared" else own

    @property
    def critic_learning_rate(self) -> float:
        given = self.arguments.critic_learning_rate
        return given or RewardModel.full_learning_rate * self.strategy.learning_rate_factor

    def steps(self, prompts: int) -> int:
        """PPO steps."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(prompts * (self.resolved_epochs or 1.0) / self.prompts_per_rollout)

    def optimizer_steps(self, prompts: int) -> int:
        """Fewer are made where `stop_kl` ends a rollout's updates early."""
        return self.steps(prompts) * self.arguments.num_ppo_epochs * self.arguments.num_mini_batches

    @property
    def trained_beside(self) -> Strategy | Literal["head"]:
        """The critic's adapter and head, or its head alone."""
        if self.critic == "shared":
            return "head"
        return self.strategy if self.strategy.capabilities.several_at_once else LoRA()

    def settings(self) -> tuple[Setting, ...]:
        given = [setting for setting in super().settings() if setting.name != "bf16"]  # PPO casts nothing
        given += [
            Setting(name, value, "default of PPOArguments")
            for name, value in as_plain(self.arguments).items()
            if name not in ("type", "gradient_checkpointing") and name not in self.trainer_args
        ]
        return tuple(given)

    def open(self, context: StageContext, tables: Tables, tokenizer: Any) -> Session:
        from .session import PPOSession

        return PPOSession(self, context, tables, tokenizer)

    def plan_of_trainer(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        from ..planner import plan_stage, tables_of

        plan, request = plan_stage(self, inputs["policy"]), self.ptx_request
        if request is None:
            return plan
        lines = [f"ptx_data: {line}" for line in tables_of(request, inputs["policy"]).report.lines()]
        return replace(plan, notes=(*plan.notes, *lines))
