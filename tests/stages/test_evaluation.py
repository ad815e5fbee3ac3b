"""Held-out numbers against independent, unbatched references."""

import math

import pytest
import torch

from posttrain.pipeline.model_ref import ModelRef
from posttrain.stages.evaluation import LogProbs, batches, generate, log_probs, mean_kl
from posttrain.stages.reward_model import pairs_measured


@pytest.fixture(scope="module")
def tiny_model() -> tuple[object, object]:
    return ModelRef.of_base("tiny-random").load()


def test_log_probs_do_not_depend_on_the_batch(tiny_model: tuple[object, object]) -> None:
    model, _ = tiny_model
    rows = [
        (list(range(5, 5 + n)), [-100] * (n // 2) + list(range(5 + n // 2, 5 + n))) for n in (3, 17, 8, 40)
    ]
    together = log_probs(model, rows, pad_id=0)
    for position, (ids, labels) in enumerate(rows):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()  # type: ignore[operator]
        expected = sum(
            float(logits[t - 1, labels[t]] - torch.logsumexp(logits[t - 1], -1))
            for t in range(1, len(ids))
            if labels[t] != -100
        )
        assert together.sums[position] == pytest.approx(expected, abs=1e-3)
        assert together.counts[position] == sum(label != -100 for label in labels[1:])


def test_mean_loss_counts_every_token_once() -> None:
    assert LogProbs([-2.0, -4.0], [1, 2]).mean_loss == pytest.approx(2.0)


def test_pair_metrics_by_hand() -> None:
    """d = 2, -1: losses log(1+e^-2) = 0.126928 and log(1+e) = 1.313262."""
    metrics = pairs_measured([2.0, -1.0]).numbers
    assert metrics["accuracy"] == 0.5
    assert metrics["margin"] == 0.5
    assert metrics["loss"] == pytest.approx((0.126928 + 1.313262) / 2, abs=1e-6)
    assert pairs_measured([0.0]).numbers["loss"] == pytest.approx(math.log(2))
    assert pairs_measured([-1000.0]).numbers["loss"] == pytest.approx(1000.0)  # no overflow


def test_kl_by_hand() -> None:
    p = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
    q = torch.log(torch.tensor([[[0.25, 0.5, 0.25]]]))
    assert mean_kl(p, q) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert mean_kl(p, p) == 0.0


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 20, 1, 100]
    found = list(batches(lengths, 60))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in found)


def test_left_padded_answers_equal_lone_ones(tiny_model: tuple[object, object]) -> None:
    model, tokenizer = tiny_model
    prompts = ["the quick", "a much longer prompt about the river banks and the dog"]
    together = generate(model, tokenizer, prompts, 8)
    assert together == [generate(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
