"""The frozen head's log-probabilities against PyTorch's log-softmax in float64, and its place in TRL's trainers."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from posttrain.stages import frozen_head, trl_trainers
from posttrain.stages.frozen_head import can_score, head_scores

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of tokens and of the vocabulary, the last ones short."""
    monkeypatch.setattr(frozen_head, "TOKENS", 5)
    monkeypatch.setattr(frozen_head, "COLUMNS", 16)
    monkeypatch.setattr(frozen_head, "_AT_ONCE", 4)


def made(tokens=13, hidden=8, vocabulary=41, bias=False, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    return normal(tokens, hidden), normal(vocabulary, hidden), normal(vocabulary) if bias else None, targets


def expected(hidden, weight, bias, targets, scale):
    """(log-probabilities, entropies, mean logits, whether the target is first), in float64."""
    logits = hidden @ weight.double().t()
    logits = scale * (logits if bias is None else logits + bias.double())
    logs = torch.log_softmax(logits, -1)
    chosen = logs.gather(1, targets[:, None])[:, 0]
    return chosen, -(logs.exp() * logs).sum(-1), logits.mean(-1), logits.argmax(-1) == targets


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.6, 2.5])
def test_scores_and_their_gradient_are_those_of_a_log_softmax(bias, scale):
    hidden, weight, bias, targets = made(bias=bias)
    targets[:4] = (hidden @ weight.t() + (0 if bias is None else bias)).argmax(-1)[:4]
    ours = hidden.clone().requires_grad_()
    wide = hidden.double().requires_grad_()
    log_probs, entropy, none, mean_logits, is_top1 = head_scores(ours, weight, bias, targets, scale, OUTPUTS)
    chosen, spread, mean, top1 = expected(wide, weight, bias, targets, scale)

    assert none is None
    assert_close(log_probs, chosen.float(), rtol=1e-5, atol=1e-5)
    assert_close(entropy, spread.float(), rtol=1e-5, atol=1e-5)
    assert_close(mean_logits, mean.float(), rtol=1e-5, atol=1e-5)
    assert is_top1.tolist() == top1.tolist()
    assert 4 <= int(is_top1.sum()) < len(targets)

    weights = torch.linspace(-1, 2, len(targets))  # a loss that asks a different amount of each token
    (log_probs * weights).sum().backward()
    (chosen * weights.double()).sum().backward()
    assert_close(ours.grad, wide.grad.float(), rtol=1e-5, atol=1e-5)


def test_a_loss_of_entropies_gets_their_gradient():
    hidden, weight, _, targets = made()
    ours, wide = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    log_probs, entropy, *_ = head_scores(ours, weight, None, targets, 0.7)
    chosen, spread, *_ = expected(wide, weight, None, targets, 0.7)
    weights = torch.linspace(-1, 2, len(targets))
    (log_probs.sum() - (weights * entropy).sum()).backward()
    (chosen.sum() - (weights.double() * spread).sum()).backward()
    assert_close(ours.grad, wide.grad.float(), rtol=1e-4, atol=1e-5)


def test_large_logits_overflow_nowhere():
    hidden, weight, _, targets = made()
    log_probs, entropy, *_ = head_scores(1e4 * hidden, weight, None, targets)
    chosen, spread, *_ = expected(1e4 * hidden.double(), weight, None, targets, 1.0)
    assert_close(log_probs, chosen.float(), rtol=1e-5, atol=1e-2)
    assert torch.isfinite(entropy).all()
    assert float(spread.max()) < 1.0


def test_of_equal_logits_the_first_is_the_most_likely_one():
    hidden, weight = torch.ones(3, 2), torch.ones(41, 2)
    weight[[7, 20, 39]] = 2.0
    *_, is_top1 = head_scores(hidden, weight, None, torch.tensor([7, 20, 39]), 1.0, OUTPUTS)
    assert is_top1.tolist() == [True, False, False]


def test_no_tokens_give_no_scores_and_a_gradient_of_nothing():
    hidden, weight, _, targets = made()
    empty = hidden[:0].requires_grad_()
    log_probs, entropy, *_ = head_scores(empty, weight, None, targets[:0])
    log_probs.sum().backward()
    assert (log_probs.shape, entropy.shape, empty.grad.shape) == ((0,), (0,), (0, 8))


def test_only_what_is_asked_for_is_computed():
    hidden, weight, _, targets = made()
    found = head_scores(hidden, weight, None, targets, 1.0, ("log_probs",))
    assert [each is None for each in found] == [False, True, True, True, True]


def test_what_it_is_not_for():
    hidden, weight, bias, _ = made(bias=True)
    assert can_score(hidden, weight, bias, None)
    trained = weight.clone().requires_grad_()
    assert not can_score(hidden, trained, None, None)
    assert not can_score(hidden, weight, bias.clone().requires_grad_(), None)
    assert not can_score(hidden, weight, None, 30.0)
    assert not can_score(hidden.bfloat16(), weight.bfloat16(), None, None)
    with torch.no_grad():
        assert can_score(hidden, trained, None, None)  # measured, not trained
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_score(hidden, weight, None, None)


@pytest.mark.parametrize(
    "asked", [("log_probs", "entropy", "is_top1"), ("log_probs", "entropy", "mean_logits")]
)
def test_it_gives_what_trls_head_gives(asked):
    from trl.kernels import ChunkedLogProbFunction

    hidden, weight, bias, targets = made(bias=True)
    given = (weight, bias, targets, 0.8, 16, None, 1.5, asked)
    sides = []
    for apply in (trl_trainers._Head.apply, ChunkedLogProbFunction.apply):
        states = hidden.clone().requires_grad_()
        scores = apply(states, *given)
        scores[0].sum().backward()
        sides.append((*scores, states.grad))
    for ours, theirs in zip(*sides, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("softcap", "asked", "trained"),
    [
        (20.0, ("log_probs",), False),
        (None, ("log_probs", "log_sum_sq_probs"), False),
        (None, ("log_probs",), True),
    ],
)
def test_what_it_cannot_is_left_to_trls_head(softcap, asked, trained):
    from trl.kernels import ChunkedLogProbFunction

    hidden, weight, _, targets = made()
    weight.requires_grad_(trained)
    given = (hidden.requires_grad_(), weight, None, targets, 1.0, 16, softcap, 1.0, asked)
    ours, theirs = trl_trainers._Head.apply(*given), ChunkedLogProbFunction.apply(*given)
    assert torch.equal(ours[0], theirs[0])
    assert (ours[2] is None) == ("log_sum_sq_probs" not in asked)
    ours[0].sum().backward()
    assert (weight.grad is not None) == trained
