"""Bootstrap intervals against what can be counted exactly, and how often they hold the truth."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posttrain import SFT, LoRA, Run
from posttrain.stages.cpt import token_loss
from posttrain.stages.evaluation import LogProbs
from posttrain.stages.intervals import Measured, before_and_after, plain
from tests.stages.words import WORDS


def binomial_quantile(share: float, rows: int, probability: float) -> float:
    """The smallest k / rows whose cumulated probability reaches `share`, of a binomial distribution."""
    total = 0.0
    for k in range(rows + 1):
        total += math.comb(rows, k) * probability**k * (1 - probability) ** (rows - k)
        if total >= share:
            return k / rows
    return 1.0


@pytest.mark.parametrize("right", [3, 7, 10, 14])
def test_the_interval_of_an_accuracy_is_the_binomial_one(right: int) -> None:
    """A resample of n rows with k right ones has Binomial(n, k / n) right ones."""
    rows = 20
    _, found = plain([Measured.means(accuracy=[1.0] * right + [0.0] * (rows - right))])
    exact = [binomial_quantile(share, rows, right / rows) for share in (0.025, 0.975)]
    assert [found["accuracy"].low, found["accuracy"].high] == pytest.approx(exact, abs=0.051)  # one row
    assert found["accuracy"].rows == rows


def test_a_change_is_paired_by_row() -> None:
    """Rows that differ a lot, each of which gains about 0.1: a change far outside the noise, in numbers that overlap."""
    draw = np.random.default_rng(1)
    values = draw.normal(0, 5, size=40)
    gains = draw.normal(0.1, 0.02, size=40)
    numbers, found = before_and_after(
        [Measured.means(margin=values)], [Measured.means(margin=values + gains)]
    )
    assert numbers["margin_after"] - numbers["margin_before"] == pytest.approx(gains.mean())
    change = found["margin_change"]
    assert 0.08 < change.low < gains.mean() < change.high < 0.12
    assert not change.holds_zero
    assert found["margin_before"].high > found["margin_after"].low
    # the standard error of a mean, 1.96 of them on either side
    assert change.high - change.low == pytest.approx(2 * 1.96 * gains.std() / math.sqrt(40), rel=0.15)


def test_no_change_is_noise_and_the_same_in_every_run() -> None:
    one = Measured.means(accuracy=[1.0, 0.0] * 10)
    other = Measured.means(accuracy=[0.0, 1.0] * 10)
    first, second = before_and_after([one], [other]), before_and_after([one], [other])
    assert first == second
    assert first[1]["accuracy_change"].holds_zero
    same = before_and_after([one], [one])[1]["accuracy_change"]
    assert (same.low, same.high) == (0.0, 0.0)


def test_perplexity_is_resampled_by_rows_and_not_by_tokens() -> None:
    """Two rows of one and of nine tokens, losses 1 and 2: a draw has only the first, both, or only the second."""
    found = token_loss(LogProbs([-1.0, -18.0], [1, 9]), perplexity=True)
    assert found.numbers["loss"] == pytest.approx(1.9)
    assert found.numbers["perplexity"] == pytest.approx(math.exp(1.9))
    _, intervals = plain([found])
    assert (intervals["loss"].low, intervals["loss"].high) == pytest.approx((1.0, 2.0))
    assert (intervals["perplexity"].low, intervals["perplexity"].high) == pytest.approx((math.e, math.e**2))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """150 samples of 50 rows from a normal distribution around 1."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        _, found = plain([Measured.means(score=draw.normal(1.0, 2.0, size=50))])
        held += found["score"].low <= 1.0 <= found["score"].high
    assert 0.89 <= held / 150 <= 0.99


def test_a_number_without_a_value_in_many_draws_has_no_interval() -> None:
    def of(at: np.ndarray) -> dict[str, float]:
        return {"steady": 1.0, **({"rare": 2.0} if 0 in at else {})}

    numbers, found = plain([Measured(20, of)])
    assert numbers == {"steady": 1.0, "rare": 2.0}
    assert list(found) == ["steady"]


def test_a_run_keeps_them_beside_its_numbers(words: Callable[..., Any], capsys: Any) -> None:
    from posttrain.pipeline.printing import print_summary

    rows = [
        {"prompt": f"{a} {b}", "completion": "river ."} for a, b in itertools.product(WORDS[:6], repeat=2)
    ]
    stage = SFT(LoRA(r=2), data=rows, max_steps=1, batch_size=2, learning_rate=1e-9)
    record = Run.load(words([stage]).run().folder)["sft"]
    for name in ("loss", "stop_rate"):
        for suffix in ("before", "after"):
            interval = record.intervals[f"{name}_{suffix}"]
            assert interval.low <= record.metrics[f"{name}_{suffix}"] <= interval.high
    assert record.intervals["loss_change"].rows == record.row_counts["held_out"]
    assert record.intervals["stop_rate_change"].holds_zero
    print_summary(Run.load(record.folder.parents[1]))
    assert "inside the noise" in capsys.readouterr().out
