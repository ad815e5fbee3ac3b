"""ORPO: the loss is the paper's, computed without a batch's logits, and pairs move the policy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posttrain import ORPO, LoRA, Pipeline
from posttrain.stages.orpo import log_odds_ratio

Rows = dict[str, list[dict[str, Any]]]


def test_odds_against_their_definition() -> None:
    draw = np.random.default_rng(0)
    for p, q in draw.uniform(0.001, 0.99, (50, 2)):
        expected = np.log((p / (1 - p)) / (q / (1 - q)))
        assert log_odds_ratio(math.log(p), math.log(q)) == pytest.approx(expected, abs=1e-10)


def test_the_trainers_loss_is_ours(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    """The loss of step 1, over all rows at once, is the held-out loss of the same rows before training."""
    pairs = rows["pairs"][:8]
    stage = ORPO(LoRA(r=8), data=pairs, eval_data=pairs, max_steps=1, batch_size=8, max_length=128, beta=0.4)
    run = tiny([stage]).run()
    first, before = run["orpo"].history[0], run["orpo"].metrics
    assert first["loss"] == pytest.approx(before["loss_before"], abs=1e-4)
    assert first["nll_loss"] == pytest.approx(before["nll_before"], abs=1e-4)
    assert first["log_odds_chosen"] == pytest.approx(before["margin_before"], abs=1e-4)


@pytest.mark.slow
def test_it_learns_the_chosen_answers(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    stage = ORPO(LoRA(r=8), data=rows["pairs"], max_steps=25, learning_rate=1e-2, max_length=128)
    metrics = tiny([stage]).run()["orpo"].metrics
    assert metrics["nll_after"] < metrics["nll_before"] - 0.3
    assert metrics["loss_after"] < metrics["loss_before"] - 0.3


def test_accumulation_is_the_big_batch(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    """Rows of equal length: the mean of means is the mean."""
    words = [["fox", "dog", "boat"][i % 3] for i in range(8)]
    pairs = [{"prompt": "a river", "chosen": f"the {word}", "rejected": f"a {word}"} for word in words]

    def losses(name: str, **settings: Any) -> list[float]:
        stage = ORPO(
            LoRA(r=8), data=pairs, eval_data=rows["pairs"][:4], max_steps=3, learning_rate=1e-2, **settings
        )
        return [line["loss"] for line in tiny([stage], name=name).run()["orpo"].history]

    whole = losses("whole", batch_size=8)
    assert losses("parts", batch_size=2, gradient_accumulation=4) == pytest.approx(whole, rel=1e-4)
