"""Log-probabilities through an output head that is not trained, on a CPU: without logits, and with no product computed twice.

The gradient of a token's log-probability with respect to its hidden state h is s (W_target - sum_v p_v W_v), which is an
attention over the vocabulary with W as keys and values. So the forward pass gathers it while it has the logits, by the online
softmax of Milakov and Gimelshein (arXiv:1805.02867), a block of the vocabulary at a time, and the backward pass multiplies.
TRL's head computes the logits again for it, and goes over them a dozen times where it has no Triton kernel.

# N tokens, H hidden size, V vocabulary, C columns of a block
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TOKENS, COLUMNS = 1024, 4096  # of a block: 16 MB, which a processor's cache has room for
_AT_ONCE = 128  # tokens whose logits are there at once, for the entropies' gradient

# log-probabilities, entropies, log of the sum of squared probabilities (never given), mean logits, whether the target is first
Scores = tuple[Tensor, Tensor | None, None, Tensor | None, Tensor | None]


def can_score(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, softcap: float | None) -> bool:
    """Whether this head is one for `head_scores`: frozen, float32, on a CPU, and without a cap on its logits."""
    trained = weight_VH.requires_grad or (bias_V is not None and bias_V.requires_grad)
    return (
        not (trained and torch.is_grad_enabled())
        and hidden_NH.device.type == "cpu"
        and hidden_NH.dtype == weight_VH.dtype == torch.float32
        and softcap is None
        and not torch.is_autocast_enabled("cpu")
    )


def head_scores(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float = 1.0,
    outputs: tuple[str, ...] = ("log_probs", "entropy"),
) -> Scores:  # fmt: skip
    """What the softmax of scale * (h W^T + bias) says of each token's target, each (N,), in nats.

    The log-probabilities have a gradient; the entropies have one too, for which the logits are computed again.
    """
    found: Scores = _Scores.apply(hidden_NH, weight_VH, bias_V, targets_N, scale, outputs)
    return found


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float,
        outputs: tuple[str, ...],
    ) -> Scores:  # fmt: skip
        ctx.set_materialize_grads(False)
        learns = ctx.needs_input_grad[0]
        parts = [
            _block_of_tokens(hidden, weight_VH, bias_V, targets, scale, outputs, learns)
            for hidden, targets in zip(hidden_NH.split(TOKENS), targets_N.split(TOKENS), strict=True)
        ]
        found = [None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)]
        log_probs, entropy, mean_logits, is_top1, slopes_NH = found
        ctx.scale = scale
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, slopes_NH)
        ctx.mark_non_differentiable(*(each for each in (mean_logits, is_top1) if each is not None))
        assert log_probs is not None
        return log_probs, entropy, None, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> Any:
        hidden_NH, weight_VH, bias_V, slopes_NH = ctx.saved_tensors
        grad_NH = torch.zeros_like(hidden_NH)
        if grad_log_probs is not None:
            torch.mul(slopes_NH, grad_log_probs[:, None] * ctx.scale, out=grad_NH)
        if grad_entropy is not None:
            grad_NH += _entropy_gradient(hidden_NH, weight_VH, bias_V, ctx.scale, grad_entropy)
        return grad_NH, None, None, None, None, None


def _block_of_tokens(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, scale: float,
    outputs: tuple[str, ...], learns: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """(log-probabilities, entropies, mean logits, whether the target is first, gradients of the first), of some tokens."""
    count, vocabulary = len(hidden_NH), len(weight_VH)
    first_N = hidden_NH.new_zeros(count, dtype=torch.long)  # the place of the largest logit
    largest_N = hidden_NH.new_full((count,), -torch.inf)
    sums_N, weighted_N, totals_N, chosen_N = hidden_NH.new_zeros(4, count)
    gathered_NH = torch.zeros_like(hidden_NH) if learns else None  # sum of exp(z_v - largest) W_v
    width = min(COLUMNS, vocabulary)
    logits, powers = hidden_NH.new_empty(2, count * width)
    scaled_NH = hidden_NH if scale == 1.0 else hidden_NH * scale
    for start in range(0, vocabulary, COLUMNS):
        weight_CH = weight_VH[start : start + COLUMNS]
        columns = len(weight_CH)
        logits_NC, powers_NC = (each[: count * columns].view(count, columns) for each in (logits, powers))
        torch.mm(scaled_NH, weight_CH.t(), out=logits_NC)
        if bias_V is not None:
            logits_NC += bias_V[start : start + COLUMNS] * scale
        here_N = (targets_N >= start) & (targets_N < start + columns)
        at_N = (targets_N - start).clamp(0, columns - 1)
        chosen_N = torch.where(here_N, logits_NC.gather(1, at_N[:, None])[:, 0], chosen_N)
        if "mean_logits" in outputs:
            totals_N += logits_NC.sum(1)
        most_N = logits_NC.amax(1)
        if "is_top1" in outputs:  # the first of several equal ones
            rows = (most_N > largest_N).nonzero()[:, 0]
            first_N[rows] = start + logits_NC[rows].argmax(1)
        most_N = torch.maximum(most_N, largest_N)
        shrink_N = torch.exp(largest_N - most_N)
        torch.sub(logits_NC, most_N[:, None], out=powers_NC).exp_()
        sums_N.mul_(shrink_N).add_(powers_NC.sum(1))
        if "entropy" in outputs:
            products_N = torch.bmm(powers_NC[:, None], logits_NC[:, :, None]).view(-1)
            weighted_N.mul_(shrink_N).add_(products_N)
        if gathered_NH is not None:
            gathered_NH.mul_(shrink_N[:, None]).addmm_(powers_NC, weight_CH)
        largest_N = most_N
    log_z_N = largest_N + sums_N.log()
    return (
        chosen_N - log_z_N,
        log_z_N - weighted_N / sums_N if "entropy" in outputs else None,
        totals_N / vocabulary if "mean_logits" in outputs else None,
        first_N == targets_N if "is_top1" in outputs else None,
        None if gathered_NH is None else weight_VH[targets_N] - gathered_NH.div_(sums_N[:, None]),
    )


def _entropy_gradient(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, scale: float, grad_N: Tensor
) -> Tensor:  # fmt: skip
    """Of the entropies' sum, weighted by `grad_N`; from the logits of some tokens at a time, since no loss has it by default."""
    parts = []
    for states_CH, grad_C in zip(hidden_NH.split(_AT_ONCE), grad_N.split(_AT_ONCE), strict=True):
        with torch.enable_grad():
            again_CH = states_CH.detach().requires_grad_()
            logs_CV = torch.log_softmax(nn.functional.linear(again_CH, weight_VH, bias_V) * scale, -1)
            entropy_C = -(logs_CV.exp() * logs_CV).sum(-1)
        parts += torch.autograd.grad(entropy_C, again_CH, grad_C)
    return torch.cat(parts)
