"""A stage that measures a model and makes none; it may stand anywhere in the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from posttrain.errors import SettingError

from ..data_formats import Data, DataSource, Kind, detect
from ..data_formats.data import described
from ..pipeline import ModelRef, Setting, Stage, StageContext, StagePlan, StageResult
from ..pipeline.model_folder import Head
from ..pipeline.settings import check_choice, check_number, refuse
from .gates import GatedStage
from .harness import Task, check_tasks
from .judging import EarlierStage, model_of
from .online.rewards import RewardSource, check_source, identity_of, name_of
from .token_tables import Request

Evaluated = Literal["policy", "reward", "classifier", "token_classifier"]
# What rows a model can be measured on.
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "policy": ("conversation", "text", "preference"),
    "reward": ("preference",),
    "classifier": ("labelled",),
    "token_classifier": ("tagged",),
}


@dataclass(frozen=True)
class Evaluate(GatedStage):
    """Measures the newest model of a role, with 95 % intervals; makes no model.

    data: rows in any format. Dialogues are answered and judged by their format's metric (exact match, calls right ...),
    texts give a perplexity, pairs the share ranked rightly, labels and spans what Classifier and TokenClassifier report.
    model: "policy", "reward", "classifier" or "token_classifier".
    probes: the packaged questions and neutral texts; None asks them of a policy that is given nothing else to do.
    against: another model whose answers the policy's are compared with: the name of an earlier stage, a run folder, a
    ModelRef, a folder, a Hub id.
    judge: a function as for PPO, or a RewardModelRef: what it thinks of the policy's answers is measured under its name.
    Of a comparison it decides which answer wins; None is the reward model of an earlier stage there.
    prompts: for the judge; None is the packaged sample.
    tasks: of lm-evaluation-harness, by name or as a config; needs posttrain[eval].
    limit: documents of each of these tasks; None is all.
    max_new_tokens: of an answer that is judged. max_length: tokens of a row; longer ones are left out and counted.

    >>> Evaluate("questions.jsonl", require={"exact_match": 0.6})     # doctest: +SKIP
    """

    data: DataSource | None = None
    model: Evaluated = field(default="policy", kw_only=True)
    probes: bool | None = field(default=None, kw_only=True)
    against: ModelRef | EarlierStage | str | Path | None = field(default=None, kw_only=True)
    judge: RewardSource | None = field(default=None, kw_only=True)
    prompts: DataSource | None = field(default=None, kw_only=True)
    tasks: Sequence[Task] = field(default=(), kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    max_new_tokens: int = field(default=64, kw_only=True)
    max_length: int = field(default=1024, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("Evaluate", "model", self.model, get_args(Evaluated))
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is None:
                refuse("Evaluate", name, None, "a whole number")
        for name in ("max_new_tokens", "max_length", "limit"):
            check_number("Evaluate", name, getattr(self, name), least=1, whole=True)
        if self.judge is not None:
            check_source("Evaluate", self.judge)
        check_tasks(self.tasks)
        self._check_together()

    def _check_together(self) -> None:
        """Raises SettingError for settings that would be ignored, or that only a policy can be asked for."""
        policy_only = {
            "probes": self.probes,
            "against": self.against,
            "judge": self.judge,
            "tasks": self.tasks,
        }
        asked = [name for name, value in policy_only.items() if value]
        if self.model != "policy" and asked:
            raise SettingError(f"Evaluate(model={self.model!r}): {asked[0]} can only be asked of a policy.")
        if self.model != "policy" and self.data is None:
            refuse("Evaluate", "data", None, f"rows to measure the {self.model} model on")
        if self.prompts is not None and not self.asks_a_judge:
            raise SettingError("Evaluate: prompts are for a judge; give judge or against, too.")
        if self.limit is not None and not self.tasks:
            raise SettingError("Evaluate: limit is a setting of tasks, which is not given.")
        if not self.asks_probes and self.data is None and not asked:
            raise SettingError(
                "Evaluate(probes=False): nothing is left to measure; give data, against or tasks."
            )

    @property
    def asks_probes(self) -> bool:
        if self.probes is None:
            return self.model == "policy" and self.data is None and not self.asks_a_judge and not self.tasks
        return self.probes

    @property
    def asks_a_judge(self) -> bool:
        return self.against is not None or self.judge is not None

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        judged = self.against is not None and self.judge is None
        earlier = (self.against.role,) if isinstance(self.against, EarlierStage) else ()
        return (self.model, *(("reward",) if judged else ()), *earlier)

    @property
    def heads(self) -> tuple[Head, ...]:  # type: ignore[override]
        return ("causal_lm",) if self.model == "policy" else ()

    @property
    def request(self) -> Request | None:
        """What decides the token tables of `data`: every row is measured, none trained on."""
        if self.data is None:
            return None
        return Request(self.data, self.data, self._kind, self.max_length, "drop")

    @property
    def _kind(self) -> Kind:
        from ..data_formats.inspection import find_kind

        kinds, data = _KINDS[self.model], Data.of(self.data)
        found = find_kind(data) if len(kinds) > 1 else kinds[0]
        if found not in kinds:
            raise SettingError(
                f"Evaluate: {data} holds rows of kind {found!r}, and a {self.model} model is measured on {' or '.join(kinds)}."
            )
        detect(data, found)
        return found

    @property
    def prompt_request(self) -> Request | None:
        if not self.asks_a_judge:
            return None
        from ..data_formats import sample

        prompts = sample("prompt", held_out=True) if self.prompts is None else self.prompts
        return Request(prompts, prompts, "prompt", self.max_length, "drop")

    def following(self, before: Sequence[Stage]) -> Stage:
        earlier = self.against in [stage.title for stage in before if stage.makes == "policy"]
        return replace(self, against=EarlierStage(str(self.against))) if earlier else self

    def check(self, before: Sequence[Stage]) -> None:
        for request in (self.request, self.prompt_request):
            if request is not None:
                detect(request.source, request.kind)
        stage = self.following(before)
        assert isinstance(stage, Evaluate)
        if stage.against is not None and not isinstance(stage.against, EarlierStage):
            model_of(stage.against)

    def identity(self) -> Mapping[str, Any]:
        kept = ("model", "limit", "max_new_tokens", "max_length")
        requests = {"tables": self.request, "prompt_tables": self.prompt_request}
        return {
            **{name: value for name, value in super().identity().items() if name in kept},
            "probes": self.asks_probes,
            "tasks": [task if isinstance(task, str) else dict(task) for task in self.tasks],
            "against": self._against,
            "judge": None if self.judge is None else dict(identity_of(self.judge)),
            **{name: request.identity() for name, request in requests.items() if request is not None},
        }

    @property
    def _against(self) -> str | None:
        """What the comparison depends on; an earlier stage's model is among what the stage needs."""
        if self.against is None or isinstance(self.against, EarlierStage):
            return None if self.against is None else self.against.role
        return model_of(self.against).fingerprint

    def settings(self) -> tuple[Setting, ...]:
        shown: dict[str, Any] = {}
        for own in fields(self):  # without the class's own variables
            value = getattr(self, own.name)
            if own.name != "name":
                shown[own.name] = (
                    value,
                    "default of Evaluate" if value == own.default or value == {} else "given",
                )
        for name in ("data", "prompts"):
            if getattr(self, name) is not None:
                shown[name] = described(getattr(self, name)), "given"
        if self.judge is not None:
            shown["judge"] = name_of(self.judge), "given"
        if self.against is not None:
            named = self.against.title if isinstance(self.against, EarlierStage) else self.against
            shown["against"] = str(getattr(named, "base", named)), "given"
        shown["probes"] = self.asks_probes, "default of Evaluate" if self.probes is None else "given"
        return tuple(Setting(name, *both) for name, both in shown.items())

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan | None:
        """Has nothing to train; but its rows are read and checked before the first stage trains."""
        from .planner import tables_of

        for request in (self.request, self.prompt_request):
            if request is not None:
                tables_of(request, inputs["policy"])
        return None

    def run(self, context: StageContext) -> StageResult:
        from .evaluating import evaluate

        return evaluate(self, context)
