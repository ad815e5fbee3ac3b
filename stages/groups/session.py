"""GRPO and RLOO from the first rollout to the last: TRL's trainer computes, our rollouts answer and judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...pipeline import StageContext
from ...pipeline.events import StageEvents
from .. import callbacks
from ..intervals import Measured
from ..online.health import alarms
from ..online.rollouts import Judged, Rollouts
from ..online.sampling import Answer, row_seed
from ..token_tables import Tables
from ..trl_session import Trained, TrlSession

if TYPE_CHECKING:
    from .stage import GroupStage


class GroupSession(TrlSession):
    """TRL's session, on the model that also carries the reward adapter, measured by answering."""

    def __init__(self, stage: GroupStage, context: StageContext, tables: Tables, tokenizer: Any) -> None:
        from datasets import Dataset

        self._rollouts = Rollouts(stage, context, tokenizer, critic=None)
        roles, rows = self._rollouts.roles, _Rows(self._rollouts, tables, context.seed, context.ranks.rank)
        trained = Trained(
            roles.policy,
            None if roles.trunk is roles.policy else roles.trunk,
            Dataset.from_dict({"prompt": [str(row) for row in range(len(tables.train))]}),
            rows,
        )
        metrics = _Metrics(context.events, rows)
        super().__init__(stage, context, tables, tokenizer, trained, metrics)

    def prove_start(self) -> None:
        self._rollouts.prove_start(self._tables.train, self._context.events.prove)

    def measure(self) -> Sequence[Measured]:
        return self._rollouts.measure(self._tables.held_out)

    def closing_numbers(self) -> Mapping[str, float]:
        return {
            **super().closing_numbers(),
            "alarms": float(len(self._context.events.alarms())),
        }


class _Rows:
    """Answers and rewards by row, for TRL."""

    def __init__(self, rollouts: Rollouts, tables: Tables, seed: int, rank: int) -> None:
        self._rollouts, self._table, self._seed, self._rank = rollouts, tables.train, seed, rank
        self._answers: list[Answer] = []
        self.judged: Judged | None = None  # the newest rollout, of all ranks

    def prompt_ids(self, row: int) -> Sequence[int]:
        ids: list[int] = self._table.row(row)["prompt_ids"]
        return ids

    def sample(self, rows: Sequence[int], step: int) -> Sequence[Sequence[int]]:
        first = self._rank * len(rows)  # TRL gives each rank the next slice of a rollout
        seeds = [row_seed(self._seed, step, first + place, row) for place, row in enumerate(rows)]
        self._answers = self._rollouts.sample(self._table, rows, seeds)
        return [answer.ids for answer in self._answers]

    def score(self, rows: Sequence[int], answers: Sequence[Sequence[int]]) -> Sequence[float]:
        assert [list(a.ids) for a in self._answers] == [list(ids) for ids in answers], (
            "TRL changed the answers"
        )
        own = self._rollouts.judge(self._table, rows, self._answers)
        self.judged = self._rollouts.together(own)
        return own.scores

    def teach(self) -> bool:
        assert self.judged is not None
        rewards: dict[int, set[float]] = {}
        for row, score in zip(self.judged.rows, self.judged.scores, strict=True):
            rewards.setdefault(row, set()).add(score)
        return any(len(different) > 1 for different in rewards.values())


class _Metrics(callbacks.Metrics):
    """TRL's numbers under the names of the other online stages, with those of the rollout, and the alarms."""

    def __init__(self, events: StageEvents, rows: _Rows) -> None:
        super().__init__(events, first_loss=None)
        self._rows = rows

    def numbers(self, logs: Mapping[str, float]) -> dict[str, float]:
        assert self._rows.judged is not None
        theirs = {name: value for name, value in logs.items() if not name.startswith("rewards/")}
        numbers = theirs | self._rows.judged.numbers()
        if "kl" in logs:  # per token in both trainers
            numbers |= {"kl_per_token": logs["kl"], "kl": logs["kl"] * numbers["length"]}
        clipped = logs.get("clip_ratio/region_mean", math.nan)
        return numbers if math.isnan(clipped) else numbers | {"clip_fraction": clipped}

    def logged(self, step: int) -> None:
        for name, text in alarms(self.events.history()):
            self.events.alarm(step, name, text)
