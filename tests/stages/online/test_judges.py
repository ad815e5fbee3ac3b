"""A reward model is read where it was trained to be read, whichever way an answer comes to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain import LoRA, ModelRef, RewardModel
from posttrain.stages.evaluation import scores
from posttrain.stages.online.judges import scores_of_texts, was_trained_here
from posttrain.stages.online.rewards import Answered
from posttrain.stages.planner import tables_of

Rows = list[dict[str, Any]]


def test_texts_score_as_the_rows_that_it_was_trained_on(
    tiny: Callable[..., Any], rows: dict[str, Rows]
) -> None:
    """The template writes a line break behind the end token; read there, a reward model says something else."""
    stage = RewardModel(LoRA(r=4), data=rows["pairs"], max_steps=2, batch_size=4, learning_rate=1e-2)
    run = tiny([stage]).run()
    model, tokenizer = run.reward_model.load()
    table = tables_of(stage.request, run.start).train
    trained = [[*table.row(i)["prompt_ids"], *table.row(i)["chosen_ids"]] for i in range(len(table))]
    asked = {tokenizer.decode(ids): ids for ids in trained}
    answered = Answered(
        [], [], [row["prompt"] for row in rows["pairs"]], [row["chosen"][0]["content"] for row in rows["pairs"]], {}
    )  # fmt: skip
    found = scores_of_texts(model, tokenizer, answered, at_end=was_trained_here(run.reward_model))
    beyond = scores_of_texts(model, tokenizer, answered, at_end=False)
    rendered = [
        tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], tokenize=False).removesuffix("\n")
        for row in rows["pairs"]
    ]
    wanted = scores(model, [tokenizer(text)["input_ids"] for text in rendered], tokenizer.pad_token_id)
    assert sum(text in asked for text in rendered) == len(trained) > 20  # the rows as they were trained on
    assert found == pytest.approx(wanted, abs=1e-5)
    assert beyond != pytest.approx(wanted, abs=1e-3)


def test_what_a_stage_made_was_trained_here_as_an_export_too(tmp_path: Path) -> None:
    elsewhere = replace(ModelRef.of_base("tiny-random"), base=str(tmp_path), head="reward")
    assert not was_trained_here(elsewhere)
    (tmp_path / "export.json").touch()
    assert was_trained_here(elsewhere)
