"""Rows of earlier stages are mixed into a stage's own: as many as asked for, none held out, none twice."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, LoRA, Pipeline
from posttrain.errors import SettingError
from posttrain.pipeline.model_ref import ModelRef
from posttrain.stages.planner import tables_of
from posttrain.stages.replay import _drawn
from tests.stages.words import WORDS

TEXTS = [{"text": f"{a} {b} sleeps falls ."} for a, b in itertools.product(WORDS[:7], repeat=2)]
CHATS = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[7:14], repeat=2)]


def chain(texts: list[dict[str, Any]] = TEXTS, **settings: Any) -> list[Any]:
    lora = LoRA(r=2)
    return [
        CPT(lora, data=texts, max_steps=1, batch_size=4),
        SFT(lora, data=CHATS, max_steps=1, batch_size=4, **settings),
    ]


def rows_of(table: Any) -> list[tuple[int, ...]]:
    return [tuple(table.row(i)["input_ids"]) for i in range(len(table))]


def test_a_share_of_the_trained_rows_is_from_the_stages_before(words: Callable[..., Any]) -> None:
    pipeline = words(chain(replay=0.25))
    start = ModelRef.of_base(pipeline.model)
    cpt, sft = (tables_of(stage.request, start) for stage in pipeline.stages)
    own = rows_of(tables_of(pipeline.stages[1].own_request, start).train)
    mixed = rows_of(sft.train)
    assert mixed[: len(own)] == own
    replayed = mixed[len(own) :]
    assert len(replayed) == round(len(own) / 3) == sft.replayed  # 25 % of all
    assert len(set(replayed)) == len(replayed)
    assert set(replayed) <= set(rows_of(cpt.train))
    assert not set(mixed) & set(rows_of(cpt.held_out))
    assert sft.train.trained_tokens == sft.report.trained_tokens
    assert sft.held_out is not None and len(sft.held_out) == 8
    (plan,) = pipeline.plan()[1:]
    assert plan.rows == len(mixed)
    run = pipeline.run()
    data = run["sft"].data
    assert (data["rows_replayed"], data["rows_kept"]) == (len(replayed), len(own))
    assert (
        f"replay: {len(replayed)} rows of earlier stages (rows), 25.5% of the rows trained on"
        in data["notes"]
    )


def test_the_key_knows_the_rows_that_are_replayed(words: Callable[..., Any]) -> None:
    def tables(*stages: Any) -> Any:
        return words(list(stages)).stages[1].identity()["tables"]

    with_it = tables(*chain(replay=0.1))
    assert with_it != tables(*chain())
    assert with_it == tables(*chain(replay=0.1))
    assert with_it != tables(*chain([{"text": "a river ."}, *TEXTS], replay=0.1))
    assert with_it != tables(*chain(replay=0.2))


def test_where_there_are_too_few_all_are_taken() -> None:
    assert [len(part) for part in _drawn([3, 2], 100)] == [3, 2]
    drawn = _drawn([1000, 3000], 400)
    assert sum(map(len, drawn)) == 400
    assert 60 < len(drawn[0]) < 140  # by the tables' sizes
    assert all(part.max() < size for part, size in zip(drawn, (1000, 3000), strict=True))


def test_what_cannot_be_mixed_is_refused(words_model: Path) -> None:
    with pytest.raises(
        SettingError, match="mixes in rows of CPT and SFT stages before it, and there is none"
    ):
        Pipeline([SFT(LoRA(r=2), data=CHATS, replay=0.05)], model=words_model)
    with pytest.raises(SettingError, match=r"replay must be a number at least 0 and at most 0\.5"):
        SFT(LoRA(r=2), data=CHATS, replay=0.9)
    with pytest.raises(SettingError, match="DPO has no setting 'replay'"):
        DPO(LoRA(r=2), replay=0.05)
