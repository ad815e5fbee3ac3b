"""KTO: the loss is the paper's, the mismatched answers are mismatched, and judged rows move the policy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posttrain import KTO, Full, LoRA, Pipeline
from posttrain.data_formats import TokenTable
from posttrain.errors import SettingError
from posttrain.stages.kto import kto_losses, mismatched

Rows = dict[str, list[dict[str, Any]]]
LEARN: dict[str, Any] = {"max_steps": 15, "learning_rate": 3e-3, "max_length": 128}


def test_losses_against_the_papers_formula() -> None:
    """Eq. 8 with z_0 = kl: lambda (1 - v), v = sigmoid(beta (r - z_0)) of good and sigmoid(beta (z_0 - r)) of bad answers."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        ratios, labels = draw.normal(0, 20, 6), draw.random(6) > 0.5
        kl, beta, weights = float(draw.exponential(3)), float(draw.uniform(0.01, 0.5)), (1.0, 1.33)
        signed = np.where(labels, ratios - kl, kl - ratios).astype(np.float64)
        expected = np.where(labels, *weights) * (1 - 1 / (1 + np.exp(-beta * signed)))
        assert kto_losses(ratios, labels, kl, beta, weights) == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize(("rows", "batch", "others"), [
    (6, 3, [2, 0, 1, 5, 3, 4]), (5, 2, [1, 0, 3, 2, 3]), (4, 8, [3, 0, 1, 2]), (1, 2, [0]),
])  # fmt: skip
def test_a_row_meets_the_answer_of_its_neighbour(rows: int, batch: int, others: list[int]) -> None:
    table = TokenTable.of({"prompt_ids": [[9]] * rows, "completion_ids": [[i] for i in range(rows)]})
    made = mismatched(table, batch)
    assert [made.row(i)["KL_completion_ids"] for i in range(rows)] == [[i] for i in others]


@pytest.mark.parametrize(
    "strategy", [LoRA(r=8), pytest.param(Full(), marks=pytest.mark.slow)], ids=["lora", "full"]
)
def test_pairs_teach_what_is_good(tiny: Callable[..., Pipeline], rows: Rows, strategy: Any) -> None:
    rate = {"learning_rate": 3e-4} if strategy == Full() else {}
    run = tiny([KTO(strategy, data=rows["pairs"], **(LEARN | rate))]).run()
    metrics, proofs = run["kto"].metrics, run["kto"].proofs
    assert metrics["loss_before"] == 0.5 and metrics["margin_before"] == 0.0
    assert metrics["loss_after"] < 0.48
    assert metrics["margin_after"] > 0.1
    assert proofs["first_loss"] == pytest.approx(0.5, abs=1e-6)
    assert proofs["reference_difference_nats"] == 0.0


def test_the_trainers_loss_is_ours(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    """On one batch that is the whole data, TRL's loss after a step is our formula on the same rows."""
    judged = [
        {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
        for row, good in zip(
            rows["pairs"][:8], [True, False, True, True, False, False, True, False], strict=True
        )
    ]
    settings: dict[str, Any] = {"batch_size": 8, "learning_rate": 3e-3, "max_length": 128, "beta": 0.3}
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.8}
    stage = KTO(LoRA(r=8), data=judged, eval_data=judged, max_steps=1, **settings, **weights)
    again = KTO(LoRA(r=8), data=judged, eval_data=judged, max_steps=2, **settings, **weights,
                trainer_args={"lr_scheduler_type": "constant"})  # fmt: skip
    once = tiny([stage], name="once").run()
    twice = tiny([again], name="twice").run()
    loss = twice["kto"].history[1]["loss"]
    # The trainer meets the rows in another order, so its KL is of other pairs: no more than that differs.
    assert loss == pytest.approx(once["kto"].metrics["loss_after"], abs=0.02)
    assert loss < once["kto"].metrics["loss_before"]


def test_refused_when_it_is_written() -> None:
    with pytest.raises(SettingError, match="batch_size must be a whole number at least 2"):
        KTO(batch_size=1)
    with pytest.raises(SettingError, match="desirable_weight"):
        KTO(desirable_weight=-1.0)
    with pytest.raises(SettingError, match="say it as desirable_weight= instead"):
        KTO(trainer_args={"desirable_weight": 2.0})
    with pytest.raises(SettingError, match="'error', 'drop', 'truncate'"):
        KTO(overlong="split")


def test_the_sample_pairs_are_its_sample() -> None:
    assert KTO().request.source.source.name == "preference.jsonl"
    assert math.isclose(KTO().resolved_learning_rate, 1e-5)
