"""The settings of every stage that learns from its own answers: prompts, rewards, and how much may be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from posttrain.errors import PipelineError, SettingError, StrategyError

from ...data_formats import Kind
from ...pipeline import ModelRef, Setting, Stage, StagePlan
from ...pipeline.settings import check_number, refuse
from ..token_tables import Request
from ..training_stage import TrainingStage
from .rewards import (
    RewardModelRef,
    RewardSource,
    bytes_of,
    check_source,
    identity_of,
    name_of,
    reward_model_of,
)
from .vllm import VLLM

Critic = Literal["adapter", "shared"]  # an adapter of its own, or a head on the policy


@dataclass(frozen=True)
class OnlineStage(TrainingStage):
    """Answers prompts, has the answers judged, and learns from that.

    reward: None takes the reward model of an earlier stage; or a function f(prompts, completions, **columns) -> list
    of numbers, a RewardModelRef, or a list of these. reward_weights: one number for each of them.
    judge: one more reward that is only watched: when it falls while the reward rises, the reward is being hacked.
    max_new_tokens: of an answer; max_length holds prompt and answer.
    gate: the share of held-out pairs that the reward model must have ranked rightly; None lets any pass.
    sampler: "transformers" answers with the policy in memory; VLLM(...) has vLLM answer from its adapter.
    """

    reward: RewardSource | Sequence[RewardSource] | None = field(default=None, kw_only=True)
    reward_weights: Sequence[float] | None = field(default=None, kw_only=True)
    judge: RewardSource | None = field(default=None, kw_only=True)
    max_new_tokens: int = field(default=64, kw_only=True)
    gate: float | None = field(default=0.6, kw_only=True)
    sampler: Literal["transformers"] | VLLM = field(default="transformers", kw_only=True)

    kind: ClassVar[Kind] = "prompt"
    has_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if self.max_new_tokens is None:
            refuse(owner, "max_new_tokens", None, "a number")
        check_number(owner, "max_new_tokens", self.max_new_tokens, least=1, whole=True)
        check_number(owner, "gate", self.gate, least=0.0)
        if self.gate is not None and self.gate > 1:
            refuse(owner, "gate", self.gate, "a share from 0 to 1")
        if self.max_new_tokens >= self.max_length:
            raise SettingError(
                f"{owner}(max_new_tokens={self.max_new_tokens}, max_length={self.max_length}): max_length holds prompt "
                "and answer, so nothing is left for the prompt; lower max_new_tokens or raise max_length."
            )
        if self.sampler != "transformers" and not isinstance(self.sampler, VLLM):
            refuse(owner, "sampler", self.sampler, "'transformers', VLLM(), or VLLM('http://127.0.0.1:8000')")
        for source in self._given:
            check_source(owner, source)
        self._check_weights(owner)

    def _check_weights(self, owner: str) -> None:
        if self.reward_weights is None:
            return
        weights, count = list(self.reward_weights), max(1, len(self.sources))
        if len(weights) != count:
            raise SettingError(
                f"{owner}(reward_weights={weights!r}): there are {count} rewards; give {count} weights."
            )
        for weight in weights:
            check_number(owner, "reward_weights", weight)

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
        if not self.strategy.capabilities.online:
            raise StrategyError(
                f"Stage {self.title}: {type(self.strategy).__name__} cannot be trained on its own answers; use another "
                "strategy there, such as LoRA(), or learn from pairs with DPO."
            )
        if isinstance(self.sampler, VLLM):
            self.sampler.check(self.title, self.strategy)
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
    def temperature(self) -> float:
        """At which answers are sampled, and every log-probability is taken."""
        return float(self.trainer_args.get("temperature", 1.0))

    @property
    def request(self) -> Request:
        overlong = self.overlong or self.default_overlong
        return Request(self.data, self.eval_data, self.kind, self.max_length - self.max_new_tokens, overlong)

    def longest_sequence(self, longest_row: int) -> int:
        return min(longest_row, self.max_length - self.max_new_tokens) + self.max_new_tokens

    @property
    def bases(self) -> int:
        return 1 if self.strategy.capabilities.several_at_once else 2

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        """With the reward models that are loaded beside the policy's base."""
        plan = self.plan_of_trainer(inputs)
        if isinstance(self.sampler, VLLM) and self.sampler.url is None:
            note = f"vLLM takes {self.sampler.gpu_memory:.0%} of the GPU's memory beside this, for a base of its own and its cache"
            plan = replace(plan, notes=(*plan.notes, note))
        for source in self._given:
            if not isinstance(source, RewardModelRef):
                continue
            model = reward_model_of(source)
            if not model.adapters:
                extra = bytes_of(model)
                note = f"reward {source.name} is a whole model of its own, {extra / 1e9:.2f} GB in memory"
                plan = replace(plan, memory_bytes=plan.memory_bytes + extra, notes=(*plan.notes, note))
        return plan

    def plan_of_trainer(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        """What the stage costs without its rewards."""
        return super().plan(inputs)

    def identity(self) -> Mapping[str, Any]:
        judge = None if self.judge is None else dict(identity_of(self.judge))
        return {
            **super().identity(),
            "reward": [dict(identity_of(source)) for source in self.sources],
            "judge": judge,
            "sampler": self._sampler_name,  # where it runs changes no result
        }

    @property
    def _sampler_name(self) -> str:
        return "vllm" if isinstance(self.sampler, VLLM) else self.sampler

    def settings(self) -> tuple[Setting, ...]:
        given = {setting.name: setting for setting in super().settings()}
        names = [name_of(source) for source in self.sources]
        given["reward"] = Setting("reward", ", ".join(names) or "the reward model of an earlier stage",
                                  "given" if names else f"default of {type(self).__name__}")  # fmt: skip
        if self.judge is not None:
            given["judge"] = Setting("judge", name_of(self.judge), "given")
        if isinstance(self.sampler, VLLM):
            given["sampler"] = Setting("sampler", str(self.sampler), "given")
        return tuple(given.values())

    def measuring(self, model: Any, held_out: Any, pad_id: int) -> Any:
        raise AssertionError("online stages measure in their session: it takes rewards")


def check_whole_groups(owner: str, answers: int, num_generations: int) -> None:
    """Raise SettingError where a rollout of `answers` answers would give some prompt fewer than `num_generations`."""
    if answers % num_generations:
        raise SettingError(
            f"{owner}(num_generations={num_generations}): a rollout has {answers} answers (batch_size * "
            "gradient_accumulation, of PPO times num_mini_batches), which is no multiple of it, so a prompt would get "
            "fewer; change one of them."
        )
