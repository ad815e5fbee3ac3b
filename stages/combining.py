"""A weighted sum of what several runs taught one base, as a model of its own."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import SettingError, WrongBaseError

from ..data_formats import DataSource
from ..pipeline import AdapterRef, ModelRef, Pipeline, Run, Setting, Stage, StageContext, StageResult
from ..pipeline.base_models import shared_tokenizer
from ..pipeline.durable import commit_folder
from ..pipeline.model_ref import adapter_digest
from ..pipeline.settings import check_number
from .evaluate import Evaluate
from .judging import model_of

if TYPE_CHECKING:
    from ..pipeline.plain_lora import PlainLora

_PROBE_TOKENS = 48  # of the packaged sample, to compare the artifact with the live sum


def combine(
    models: Sequence[Run | ModelRef | str | Path],
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    data: DataSource | None = None,
    run_dir: str | Path | None = None,
) -> Run:
    """base + w1 (model 1 - base) + w2 (model 2 - base) + ..., as a run of one stage: for `serve`, `export`, any Pipeline.

    models: of one base, made with plain LoRA all the way; a Run or its folder gives its final policy,
    `run["sft"].models["policy"]` that of one stage. weights: None is their mean.
    rank: of the sum; None keeps it exact, with the ranks of all added up. Else the nearest adapter of that rank is kept
    (singular values), and `cut` in the metrics is what it lost: |difference| / |sum|.
    data: held-out rows in any format; measured on the base ("before") and on the sum ("after"), with intervals.

    >>> combine([style, agent], weights=[0.7, 0.5], data="heldout.jsonl").model.load()    # doctest: +SKIP

    Raises WrongBaseError when they stand on several bases, StrategyError for a model that is no sum of plain LoRAs.
    """
    refs = tuple(one.model if isinstance(one, Run) else model_of(one) for one in models)
    stage = Combine(refs, None if weights is None else tuple(weights), rank=rank, data=data)
    return Pipeline([stage], model=replace(refs[0], adapters=()), run_dir=run_dir).run()


@dataclass(frozen=True)
class Combine(Stage):
    """The stage that `combine` runs. It trains nothing."""

    models: tuple[ModelRef, ...]
    weights: tuple[float, ...] | None = None
    rank: int | None = field(default=None, kw_only=True)
    data: DataSource | None = field(default=None, kw_only=True)

    needs: ClassVar[tuple[str, ...]] = ("policy",)
    makes: ClassVar[str | None] = "policy"

    def __post_init__(self) -> None:
        check_number("combine", "rank", self.rank, least=1, whole=True)
        if not self.models:
            raise SettingError("combine([]): give the models to combine.")
        if self.weights is not None and len(self.weights) != len(self.models):
            raise SettingError(
                f"combine: {len(self.models)} models and {len(self.weights)} weights; each needs one."
            )
        for weight in self.shares:
            check_number("combine", "weights", weight)
        bases = {model.base_fingerprint: model.base for model in self.models}
        if len(bases) > 1:
            found = " and ".join(f"{base} ({fingerprint[:12]})" for fingerprint, base in bases.items())
            raise WrongBaseError(
                f"combine: the models stand on {found}; only adapters of one base can be added."
            )
        if bare := [number for number, model in enumerate(self.models) if not model.adapters]:
            raise SettingError(
                f"combine: models[{bare[0]}] is the base itself, or was trained whole; there is no adapter to add."
            )
        if any(model.head != "causal_lm" for model in self.models):
            raise SettingError("combine: only causal language models are combined.")

    @property
    def shares(self) -> tuple[float, ...]:
        return self.weights or (1 / len(self.models),) * len(self.models)

    @property
    def measures(self) -> Evaluate | None:
        return None if self.data is None else Evaluate(self.data)

    def check(self, before: Sequence[Stage]) -> None:
        if self.measures:
            self.measures.check(before)

    def identity(self) -> Mapping[str, Any]:
        measures = self.measures
        return {
            "models": [model.fingerprint for model in self.models],
            "weights": list(self.shares),
            "rank": self.rank,
            "measures": None if measures is None else dict(measures.identity()),
        }

    def settings(self) -> tuple[Setting, ...]:
        folders = [str(model.adapters[-1].folder) for model in self.models]
        mean = "the mean" if self.weights is None else "given"
        return (
            Setting("models", folders, "given"),
            Setting("weights", list(self.shares), mean),
            Setting("rank", self.rank, "given" if self.rank else "exact"),
        )

    def run(self, context: StageContext) -> StageResult:
        base = context.inputs["policy"]
        if base.fingerprint != self.models[0].base_fingerprint:
            raise WrongBaseError("combine: the models were made on another model than the one that comes in.")
        lora, cut = self._sum()
        proofs: dict[str, float] = {}
        made = _commit(lora, base, context.folder)
        proofs["read_back_difference"] = _prove(lora, base, made)
        metrics = {"rank": float(max(one.rank for one in lora.layers.values())), "cut": cut}
        result = StageResult({"policy": made}, metrics, proofs=proofs)
        return result if self.measures is None else _measured(self.measures, context, base, result)

    def _sum(self) -> tuple[PlainLora, float]:
        from ..pipeline.plain_lora import PlainLora

        for model in self.models:
            model.verify()
        lora = PlainLora.sum([PlainLora.of(model) for model in self.models], self.shares)
        return (lora, 0.0) if self.rank is None else lora.cut_to(self.rank)


def _commit(lora: PlainLora, base: ModelRef, folder: Path) -> ModelRef:
    commit_folder(
        folder / "adapter", lambda aside: lora.save(aside, base.base), {"stands_on": base.fingerprint}
    )
    return base.with_adapter(
        AdapterRef(folder / "adapter", adapter_digest(folder / "adapter"), base.fingerprint)
    )


def _prove(lora: PlainLora, base: ModelRef, made: ModelRef) -> float:
    """Largest difference of logits between the sum beside the base and the artifact merged into it."""
    import torch

    from ..data_formats import sample
    from .evaluation import logits
    from .proofs import prove_equal

    tokenizer = shared_tokenizer(base.find().folder)
    ids = tokenizer(sample("text").read_text("utf-8"), add_special_tokens=False)["input_ids"][:_PROBE_TOKENS]
    live = logits(lora.put_on(base.load_model(), "sum"), [ids], tokenizer.pad_token_id)
    gc.collect()
    model = made.load_model()
    tolerance = 1e-3 if model.dtype == torch.float32 else 2e-1
    return prove_equal(
        "The combined adapter, merged,", live, logits(model, [ids], tokenizer.pad_token_id), tolerance
    )


def _measured(measures: Evaluate, context: StageContext, base: ModelRef, result: StageResult) -> StageResult:
    from .evaluating import account, on_rows
    from .intervals import before_and_after
    from .planner import tables_of

    assert measures.request is not None
    tables, tokenizer = tables_of(measures.request, base), shared_tokenizer(base.find().folder)
    found = []
    for name, ref in (("the base", base), ("the sum", result.models["policy"])):
        context.events.phase(f"measuring {name}")
        found.append(on_rows(measures, context, ref.load_model(), tokenizer, tables))
        gc.collect()
    numbers, intervals = before_and_after(*found)
    return replace(result, metrics={**result.metrics, **numbers}, intervals=intervals, data=account(tables))
