"""What a reward model or a function thinks of answers: by themselves, or beside another model's."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from ..pipeline import ModelRef
from ..pipeline.stage import made_by

if TYPE_CHECKING:
    import numpy as np

    from .intervals import Measured
    from .online.rewards import Answered, RewardFunction
    from .token_tables import Request

SIMILAR_LENGTH = 1.25  # answers of which the longer has at most so many times the tokens of the shorter
_PROMPTS = 64


@dataclass(frozen=True)
class EarlierStage:
    """The model that an earlier stage of the same pipeline made."""

    title: str

    @property
    def role(self) -> str:
        return made_by("policy", self.title)


def model_of(source: ModelRef | str | Path) -> ModelRef:
    """A model to compare with; a run folder gives its final policy.

    Raises ModelError for what is no model.
    """
    from ..pipeline.run import RUN_FILE, Run

    if isinstance(source, ModelRef):
        return source
    folder = Path(source).expanduser()
    return Run.load(folder).model if (folder / RUN_FILE).is_file() else ModelRef.of_base(source)


@dataclass(frozen=True)
class Judgement:
    measured: Measured
    samples: list[dict[str, str]]  # {"prompt", "answer", "other"}


def judged(
    model: ModelRef, judge: ModelRef | RewardFunction, name: str, request: Request, max_new_tokens: int
) -> Judgement:
    """Greedy answers to up to 64 prompts: the mean of the judge's scores, under its name, and their length in tokens."""
    from .intervals import Measured

    rows = _answers(model, request, max_new_tokens)
    if not rows:
        raise DataError(f"{request.source}: no prompt fits into max_length={request.max_length}.")
    answered = _together(rows)
    lengths = [float(len(ids)) for ids in answered.answer_ids]
    samples = [
        {"prompt": str(prompt), "answer": answer}
        for prompt, answer in zip(answered.prompts, answered.completions, strict=True)
    ]
    return Judgement(Measured.means(**{name: _scores(judge, answered), "length": lengths}), samples[:3])


def compare(
    mine: ModelRef, other: ModelRef, judge: ModelRef | RewardFunction, request: Request, max_new_tokens: int
) -> Judgement:
    """Greedy answers of both to up to 64 prompts, each scored; one model is in memory at a time.

    win_rate: the share of prompts whose answer scores higher, a tie counts half. win_rate_similar_length: the same
    where the answers are of similar length, so that being longer wins nothing; similar_length: how many those are.
    score, score_against: the judge's mean scores.
    """
    answered = [_answers(model, request, max_new_tokens) for model in (mine, other)]
    both = [_only(each, answered[0].keys() & answered[1].keys()) for each in answered]
    if not both[0]:
        raise DataError(
            f"{request.source}: no prompt fits into max_length={request.max_length} of both models."
        )
    ours, theirs = (_together(each) for each in both)
    scores = [_scores(judge, each) for each in (ours, theirs)]
    lengths = [list(map(len, each.answer_ids)) for each in (ours, theirs)]
    samples = [
        {"prompt": str(prompt), "answer": answer, "other": reply}
        for prompt, answer, reply in zip(ours.prompts, ours.completions, theirs.completions, strict=True)
    ]
    return Judgement(preferred(scores[0], scores[1], lengths[0], lengths[1]), samples[:3])


def preferred(
    mine: Sequence[float], theirs: Sequence[float], my_lengths: Sequence[int], their_lengths: Sequence[int]
) -> Measured:
    """Scores and lengths in tokens of the answers of two models to the same prompts."""
    import numpy as np

    from .intervals import Measured

    scores = np.array([mine, theirs], dtype=float)
    difference = scores[0] - scores[1]
    wins, ties = (difference > 0) + 0.5 * (difference == 0), difference == 0
    lengths = np.array([my_lengths, their_lengths], dtype=float)
    similar = lengths.max(0) <= SIMILAR_LENGTH * lengths.min(0)

    def of(at: np.ndarray) -> dict[str, float]:
        alike = at[similar[at]]
        controlled = {"win_rate_similar_length": float(wins[alike].mean())} if len(alike) else {}
        return {
            "win_rate": float(wins[at].mean()),
            "tie_rate": float(ties[at].mean()),
            **controlled,
            "similar_length": float(len(alike)),
            "score": float(scores[0, at].mean()),
            "score_against": float(scores[1, at].mean()),
            "length": float(lengths[0, at].mean()),
            "length_against": float(lengths[1, at].mean()),
        }

    return Measured(len(wins), of)


_Rows = dict[
    str, tuple[list[int], list[int], Any, str]
]  # by prompt: ids of prompt and answer, record, answer


def _answers(model_ref: ModelRef, request: Request, max_new_tokens: int) -> _Rows:
    import json

    from ..pipeline.base_models import shared_tokenizer
    from .evaluation import continuations
    from .planner import tables_of

    table = tables_of(request, model_ref).train
    tokenizer = shared_tokenizer(model_ref.find().folder)
    prompts = [table.row(i)["prompt_ids"] for i in range(min(_PROMPTS, len(table)))]
    model = model_ref.load_model()
    made = continuations(model, prompts, max_new_tokens, tokenizer.pad_token_id, [tokenizer.eos_token_id])
    del model
    gc.collect()
    texts = [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    records = [table.records[i] for i in range(len(prompts))]
    keys = [json.dumps(record, sort_keys=True) for record in records]
    return dict(zip(keys, zip(prompts, made, records, texts, strict=True), strict=True))


def _only(rows: _Rows, keys: set[str]) -> _Rows:
    return {key: rows[key] for key in sorted(keys)}


def _together(rows: _Rows) -> Answered:
    from .online.rewards import Answered

    prompts, answers, records, texts = (list(column) for column in zip(*rows.values(), strict=True))
    names = dict.fromkeys(name for record in records for name in record["columns"])
    columns = {name: [record["columns"].get(name) for record in records] for name in names}
    return Answered(prompts, answers, [record["prompt"] for record in records], texts, columns)


def _scores(judge: ModelRef | RewardFunction, answered: Answered) -> list[float]:
    from ..pipeline.base_models import shared_tokenizer
    from .online.judges import scores_of_texts, was_trained_here
    from .online.rewards import call_function

    if not isinstance(judge, ModelRef):
        return call_function(judge, answered)
    model, tokenizer = judge.load_model(), shared_tokenizer(judge.find().folder)
    return scores_of_texts(model, tokenizer, answered, at_end=was_trained_here(judge))
