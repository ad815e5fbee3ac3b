"""The rewards of one stage together: which models they need, what they weigh, and whether they may be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.errors import RewardError, RewardGateError, WrongBaseError

from ...pipeline import ModelRef, StageContext
from ...pipeline.adapters import PROMPTS, kind_of
from ...pipeline.base_models import shared_tokenizer
from ...pipeline.durable import read_sealed
from ...pipeline.run import STAGE_FILE
from ..evaluation import scores as scores_of
from ..export.place import MANIFEST as EXPORTED
from .rewards import Answered, RewardModelRef, RewardSource, call_function, name_of, reward_model_of
from .roles import Batch, Roles

if TYPE_CHECKING:
    from .stage import OnlineStage

_ALONE = (
    "ADALORA",
    "LN_TUNING",
    *PROMPTS,
)  # PEFT's kinds that cannot be several in one model, or not in its layers
_FROM_PIPELINE = "reward model"
JUDGE = "judge"


class Judges:
    """Scores answers. One reward model at most shares the policy's base; each other one is a model of its own."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        adapter: ModelRef | None,
        adapter_name: str,
        others: Mapping[str, ModelRef],
        weights: Mapping[str, float],
    ) -> None:
        self._functions, self.adapter, self._adapter_name = functions, adapter, adapter_name
        self._other_refs, self._weights = others, weights
        self._others: dict[str, Any] = {}
        self._roles: Roles | None = None

    @classmethod
    def of(cls, stage: OnlineStage, policy: ModelRef, from_pipeline: ModelRef | None) -> Judges:
        """Raises WrongBaseError for a reward adapter that stands on another base than the policy."""
        sources: list[tuple[str, RewardSource | ModelRef]] = [(name_of(s), s) for s in stage.sources]
        if not sources:
            assert from_pipeline is not None
            sources = [(_FROM_PIPELINE, from_pipeline)]
        weights = list(stage.reward_weights or [1.0] * len(sources))
        names = _distinct([name for name, _ in sources])
        if stage.judge is not None:
            sources, weights, names = [*sources, ("", stage.judge)], [*weights, 0.0], [*names, JUDGE]
        functions, others = {}, {}
        adapter, adapter_name = None, ""
        for name, (_, source) in zip(names, sources, strict=True):
            if isinstance(source, RewardModelRef):
                source = reward_model_of(source)
            if not isinstance(source, ModelRef):
                functions[name] = source
            elif not source.adapters or adapter is not None or not _shares_a_base(source):
                others[name] = source
            else:
                _check_same_base(stage, source, policy)
                adapter, adapter_name = source, name
        return cls(functions, adapter, adapter_name, others, dict(zip(names, weights, strict=True)))

    @property
    def other_models(self) -> int:
        """Reward models that are loaded beside the policy's base."""
        return len(self._other_refs)

    def pass_gate(self, gate: float | None, context: StageContext) -> None:
        """Raises RewardGateError when a reward model ranked fewer held-out pairs rightly than `gate` asks for."""
        models = {self._adapter_name: self.adapter, **self._other_refs}
        for name, model in models.items():
            if model is None or gate is None:
                continue
            accuracy = _held_out_accuracy(model)
            if accuracy is None:
                continue
            context.events.prove(f"{name.replace(' ', '_')}_accuracy", accuracy)
            if accuracy < gate:
                raise RewardGateError(
                    f"Stage {context.name}: the reward model ranks {accuracy:.0%} of its held-out pairs rightly, and "
                    f"gate={gate:g} asks for {gate:.0%}; optimising against it would teach its errors. Train it longer "
                    "or on better pairs, or set gate=None."
                )

    def load(self, roles: Roles, pad_id: int, stops: Sequence[int], end_id: int | None) -> None:
        """Take the shared reward model from the roles, and load the others.

        stops: tokens that end an answer. end_id: the one that a reward model has seen answers end with.
        """
        self._roles, self._pad_id = roles, pad_id
        self._stops, self._end = frozenset(stops), () if end_id is None else (end_id,)
        for name, reference in self._other_refs.items():
            model = reference.load_model(device=roles.policy.device).requires_grad_(False)
            self._others[name] = model, shared_tokenizer(reference.find().folder)

    def score(self, answered: Answered) -> tuple[list[float], dict[str, list[float]]]:
        """(weighted sums, each reward's own numbers by name) of the answers.

        Raises RewardError when a reward is not what it must be.
        """
        parts = {name: call_function(function, answered) for name, function in self._functions.items()}
        if self.adapter is not None:
            parts[self._adapter_name] = self._shared_scores(answered)
        for name, (model, tokenizer) in self._others.items():
            at_end = was_trained_here(self._other_refs[name])
            parts[name] = scores_of_texts(model, tokenizer, answered, at_end=at_end)
        for name, values in parts.items():
            if any(value != value or abs(value) == float("inf") for value in values):
                raise RewardError(f"The reward {name} gave NaN or infinity; look at its model.")
        total = [
            sum(self._weights[name] * parts[name][i] for name in parts)
            for i in range(len(answered.completions))
        ]
        return total, parts

    def _shared_scores(self, answered: Answered) -> list[float]:
        """Read behind the end of each answer, where it was trained to be read; one that was cut is given an end."""
        assert self._roles is not None
        answers = [
            ids if ids and ids[-1] in self._stops else (*ids, *self._end) for ids in answered.answer_ids
        ]
        out = [0.0] * len(answers)
        lengths = [len(p) + len(a) for p, a in zip(answered.prompt_ids, answers, strict=True)]
        order = sorted(range(len(out)), key=lambda i: (-lengths[i], i))
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            batch = Batch.of(
                [answered.prompt_ids[i] for i in chosen], [answers[i] for i in chosen],
                self._pad_id, self._roles.policy.device,
            )  # fmt: skip
            for i, value in zip(chosen, self._roles.scores(batch).tolist(), strict=True):
                out[i] = value
        return out


def scores_of_texts(model: Any, tokenizer: Any, answered: Answered, *, at_end: bool) -> list[float]:
    """A model of its own reads the texts, in its own template and tokens.

    at_end: up to the end token of the answer, as our RewardModel trains; else all that the template writes, which may
    be a line break more, as TRL trains on dialogues.
    """
    rows = []
    for prompt, completion in zip(answered.prompts, answered.completions, strict=True):
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            turns = [*turns, {"role": "assistant", "content": completion}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            asked = prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)
            text = asked + completion
        ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
        rows.append(_up_to_last(tokenizer.eos_token_id, ids) if at_end else ids)
    with torch.no_grad():
        return scores_of(model, rows, tokenizer.pad_token_id)


def _up_to_last(token: int | None, ids: list[int]) -> list[int]:
    """The ids up to the last such token; all of them where there is none."""
    return ids[: len(ids) - ids[::-1].index(token)] if token in ids else ids


def was_trained_here(reward: ModelRef) -> bool:
    """Whether a RewardModel stage made it, be it as an export."""
    return (_made_in(reward) / STAGE_FILE).exists() or (Path(reward.base) / EXPORTED).exists()


def _made_in(reward: ModelRef) -> Path:
    """The stage's folder, of a model that a stage made."""
    return (reward.adapters[-1].folder if reward.adapters else Path(reward.base)).parent


def _check_same_base(stage: OnlineStage, reward: ModelRef, policy: ModelRef) -> None:
    stands_on = reward.without_last_adapter().fingerprint
    if stands_on != policy.fingerprint:
        raise WrongBaseError(
            f"Stage {stage.title}: the reward model's adapter was trained on the model {stands_on[:12]}, and the policy is "
            f"{policy.fingerprint[:12]}; train the reward model on this policy, or give a full reward model."
        )


def _shares_a_base(reward: ModelRef) -> bool:
    """Whether its adapter is of a kind of which a model can hold several."""
    return kind_of(reward.adapters[-1].folder) not in _ALONE


def _held_out_accuracy(model: ModelRef) -> float | None:
    """What the stage that made the reward model measured; None where nobody did."""
    if not (_made_in(model) / STAGE_FILE).exists():
        return None
    value = read_sealed(_made_in(model) / STAGE_FILE)["metrics"].get("accuracy_after")
    return None if value is None else float(value)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same."""
    return [name if names.count(name) == 1 else f"{name}_{i + 1}" for i, name in enumerate(names)]
