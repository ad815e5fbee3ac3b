"""The proofs of a hand-over: each a number, and an error with both numbers when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.errors import ArtifactMismatchError, ReferenceMismatchError, TrainingDivergedError

from .evaluation import Row, log_probs

_LOG_PROB_TOLERANCE = 1e-4  # nats per answer
_LOSS_TOLERANCE = 1e-3  # 16-bit arithmetic; on a CPU it is 1e-7


def prove_reference(policy: Any, reference: Any, rows: Sequence[Row], pad_id: int) -> float:
    """Largest difference, in nats, between policy and reference over some answers before step 1.

    reference: a model, or None when it lives in the policy's adapters.
    Raises ReferenceMismatchError when it is not zero: every later log-ratio would be wrong by as much.
    """
    import torch

    mine = log_probs(policy, rows, pad_id).sums
    with _reference_adapters(policy, reference):
        theirs = log_probs(reference or policy, rows, pad_id).sums
    worst = max(range(len(rows)), key=lambda i: abs(mine[i] - theirs[i]))
    difference = abs(mine[worst] - theirs[worst])
    # 16-bit arithmetic rounds differently with and without adapters, by a share of the value.
    allowed = _LOG_PROB_TOLERANCE if policy.dtype == torch.float32 else 0.02 * abs(theirs[worst])
    if not difference <= allowed:
        raise _differs(mine[worst], theirs[worst])
    return difference


def prove_unchanged(policy_BT: Any, reference_BT: Any) -> float:
    """Largest difference, in nats, between the log-probabilities of answers' tokens before step 1: KL 0, ratio 1.

    Raises ReferenceMismatchError when it is not zero.
    """
    mine, theirs = policy_BT.sum(1), reference_BT.sum(1)
    worst = int((mine - theirs).abs().argmax())
    if not float((mine - theirs).abs().max()) <= _LOG_PROB_TOLERANCE:
        raise _differs(float(mine[worst]), float(theirs[worst]))
    return float((policy_BT - reference_BT).abs().max())


def _differs(mine: float, theirs: float) -> ReferenceMismatchError:
    return ReferenceMismatchError(
        f"Before step 1 the policy gives an answer the log-probability {mine:.6f} and its reference {theirs:.6f}; they "
        "must be equal. This is a defect of the hand-over, please report it."
    )


def prove_first_loss(loss: float, expected: float) -> float:
    """The loss of step 1, which must be what a policy equal to its reference gives (ln 2 for DPO).

    Raises ReferenceMismatchError when it is not.
    """
    if not abs(loss - expected) <= _LOSS_TOLERANCE:
        raise ReferenceMismatchError(
            f"The first loss is {loss:.6f} and must be {expected:.6f}: policy and reference differ."
        )
    return loss


def prove_equal(what: str, live: Any, read_back: Any, tolerance: float) -> float:
    """Largest difference between what the live model gave and what the saved one gives.

    Raises ArtifactMismatchError when it is above `tolerance` times the largest live value.
    """
    difference = float((live - read_back).abs().max())
    allowed = tolerance * float(live.abs().max())
    if not difference <= allowed:
        raise ArtifactMismatchError(
            f"{what} differs from the trained model by {difference:.6g} in its outputs, where {allowed:.3g} is allowed; "
            "nothing was handed over. The last checkpoint is kept, run again to retry."
        )
    return difference


def prove_finite(model: Any) -> None:
    """Raises TrainingDivergedError when a trained parameter is NaN or infinite: such a model is never saved."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise TrainingDivergedError(
                f"The trained parameter {name} holds NaN or infinity, so it is not saved; lower learning_rate."
            )


@contextlib.contextmanager
def _reference_adapters(policy: Any, reference: Any) -> Iterator[None]:
    """The policy seen as its own reference: adapters off, or the frozen copy."""
    if reference is not None:
        yield
    elif "ref" in policy.peft_config:
        policy.set_adapter("ref", inference_mode=True)
        try:
            yield
        finally:
            policy.set_adapter("default")
    else:
        with policy.disable_adapter():
            yield
