"""What Evaluate does: load one model at a time, measure it, write down what it said."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from ..pipeline import Interval, StageContext, StageResult
from ..pipeline.base_models import shared_tokenizer
from ..pipeline.durable import write_bytes, write_json
from .answers import ask
from .classifier import class_metrics
from .cpt import language_loss
from .dpo import pair_rows
from .evaluation import head_logits, log_probs
from .forgetting.check import abilities
from .harness import run_tasks
from .intervals import Measured, plain
from .judging import EarlierStage, compare, judged, model_of
from .online.rewards import RewardModelRef, name_of, reward_model_of
from .planner import tables_of
from .reward_model import scored_pairs
from .token_classifier import tag_metrics
from .trl_session import ANSWERS, BY_LABEL

if TYPE_CHECKING:
    from ..pipeline.heads import Labels
    from .evaluate import Evaluate
    from .token_tables import Tables


_Numbers = tuple[dict[str, float], dict[str, Interval]]


def evaluate(stage: Evaluate, context: StageContext) -> StageResult:
    """The main rank measures; the others have nothing to do."""
    if not context.ranks.main:
        return StageResult(models={})
    tables = None if stage.request is None else tables_of(stage.request, context.inputs["policy"])
    measured, harness = _of_the_model(stage, context, tables)
    judged, samples = _by_a_judge(stage, context)
    numbers, intervals = plain([*measured, *judged])
    return StageResult(
        models={},
        metrics=numbers | harness[0],
        intervals=intervals | harness[1],
        data={} if tables is None else account(tables),
        samples=samples,
    )


def _of_the_model(
    stage: Evaluate, context: StageContext, tables: Tables | None
) -> tuple[list[Measured], _Numbers]:
    """(what the probes and the rows give, what the harness says), of the model in memory."""
    found: list[Measured] = []
    harness: _Numbers = {}, {}
    if tables is None and not stage.asks_probes and not stage.tasks:
        return found, harness
    events, source = context.events, context.inputs[stage.model]
    events.phase("loading the model")
    model, tokenizer = source.load_model(), shared_tokenizer(source.find().folder)
    if stage.asks_probes:
        events.phase("asking the packaged probes")
        found += abilities(model, tokenizer)
    if tables is not None:
        events.phase("measuring on the rows")
        found += on_rows(stage, context, model, tokenizer, tables)
    if stage.tasks:
        events.phase("running lm-evaluation-harness")
        harness = run_tasks(model, tokenizer, stage.tasks, stage.limit, context.seed)
    del model
    gc.collect()
    return found, harness


def _by_a_judge(stage: Evaluate, context: StageContext) -> tuple[list[Measured], Sequence[Mapping[str, str]]]:
    """(the judge's scores or the win rate, some of the answers that were judged)."""
    if stage.prompt_request is None:
        return [], []
    source, judge = context.inputs[stage.model], _judge(stage, context)
    if stage.against is None:
        assert stage.judge is not None
        context.events.phase("judging answers")
        name = name_of(stage.judge)
        found = judged(source, judge, name, stage.prompt_request, stage.max_new_tokens)
    else:
        context.events.phase("comparing answers")
        against = stage.against
        other = context.inputs[against.role] if isinstance(against, EarlierStage) else model_of(against)
        found = compare(source, other, judge, stage.prompt_request, stage.max_new_tokens)
    return [found.measured], found.samples


def _judge(stage: Evaluate, context: StageContext) -> Any:
    if stage.judge is None:
        return context.inputs["reward"]
    return reward_model_of(stage.judge) if isinstance(stage.judge, RewardModelRef) else stage.judge


def on_rows(
    stage: Evaluate, context: StageContext, model: Any, tokenizer: Any, tables: Tables
) -> list[Measured]:
    table, pad_id, request = tables.train, int(tokenizer.pad_token_id), stage.request
    assert request is not None
    for path in tables.bad_rows[:1]:
        write_bytes(context.folder / path.name, path.read_bytes())
    if request.kind == "conversation":
        answered = ask(model, tokenizer, tables.questions, request.formats, within_budget=False)
        write_json(context.folder / ANSWERS, answered.as_dict())
        return [language_loss(model, table, pad_id), *answered.measured]
    if request.kind == "text":
        return [language_loss(model, table, pad_id, perplexity=True)]
    if request.kind == "preference":
        if stage.model == "reward":
            return [scored_pairs(model, table, pad_id)]
        return [_preferred(log_probs(model, pair_rows(table), pad_id).sums)]
    found = _labelled(stage, model, tables, pad_id)
    write_json(context.folder / BY_LABEL, {**found.numbers, **found.details})
    return [found]


def _preferred(sums: Sequence[float]) -> Measured:
    """accuracy: the share of pairs whose chosen answer is the likelier one; margin: by how many nats."""
    half = len(sums) // 2
    margins = [chosen - rejected for chosen, rejected in zip(sums[:half], sums[half:], strict=True)]
    return Measured.means(accuracy=[(m > 0) + 0.5 * (m == 0) for m in margins], margin=margins)


def _labelled(stage: Evaluate, model: Any, tables: Tables, pad_id: int) -> Measured:
    from ..pipeline.heads import Labels

    labels = Labels.of(model.config)
    column, metrics = ("classes", class_metrics) if stage.model == "classifier" else ("labels", tag_metrics)
    assert tables.labels is not None
    places = _places(tables.labels, labels)
    rows = [tables.train.row(i) for i in range(len(tables.train))]
    gold = [[places.get(one, one) for one in row[column]] for row in rows]
    return metrics(head_logits(model, [row["input_ids"] for row in rows], pad_id), gold, labels)


def _places(theirs: Labels, ours: Labels) -> Mapping[int, int]:
    """The number that the model has for each class of the file.

    Raises DataError for a class that the model does not know.
    """
    for name in theirs.names:
        if name not in ours.names:
            raise DataError(f"The rows have the class {name!r}, and the model knows {', '.join(ours.names)}.")
    return {i: ours.names.index(name) for i, name in enumerate(theirs.names)}


def account(tables: Tables) -> dict[str, Any]:
    """What became of the rows, all of which are measured."""
    report = tables.report
    return {**report.as_dict(), "rows_kept": 0, "rows_held_out": report.rows_kept, "lines": report.lines()}
