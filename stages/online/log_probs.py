"""Log-probabilities of given tokens, without ever holding the logits of a whole batch.

# N tokens of all answers of a batch, C of one chunk, H hidden size, V vocabulary
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..frozen_head import can_score, head_scores

CHUNK = 128  # tokens whose logits are in memory at once, four times in the backward pass: 0.3 GB of 150,000 entries


def backbone(model: Any) -> Any:
    """The transformer below the head, with whatever adapters are active in it."""
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    return getattr(causal, causal.base_model_prefix)


def answer_log_probs(
    model: Any, hidden_NH: Tensor, targets_N: Tensor, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """(log-probabilities of the targets, entropies), both (N,) in nats, at the sampling temperature.

    hidden_NH: last hidden states at the places that predict the targets. Where `frozen_head` cannot take them, the logits of
    each chunk are computed again in the backward pass instead of being kept. entropy_gradient: whether the entropies
    carry one, which costs several passes over the logits.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    cap, learns_entropy = _cap(config), entropy_gradient and torch.is_grad_enabled()
    if type(head) is nn.Linear and not learns_entropy and can_score(hidden_NH, head.weight, head.bias, cap):
        log_probs_N, entropy_N, *_ = head_scores(
            hidden_NH, head.weight, head.bias, targets_N, _factor(config) / temperature
        )
        assert entropy_N is not None
        return log_probs_N, entropy_N

    def of_chunk(hidden_CH: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
        logits_CV = scaled(head(hidden_CH), config).float()
        if temperature != 1.0:
            logits_CV = logits_CV / temperature
        log_z_C = torch.logsumexp(logits_CV, -1)
        chosen_C = logits_CV.gather(-1, targets_C[:, None])[:, 0]
        if learns_entropy:
            return chosen_C - log_z_C, log_z_C - (torch.softmax(logits_CV, -1) * logits_CV).sum(-1)
        with torch.no_grad():
            entropy_C = log_z_C - torch.softmax(logits_CV, -1).mul_(logits_CV).sum(-1)
        return chosen_C - log_z_C, entropy_C

    chosen, entropies = [], []
    for start in range(0, len(targets_N), CHUNK):
        piece = hidden_NH[start : start + CHUNK], targets_N[start : start + CHUNK]
        if torch.is_grad_enabled():
            log_probs_C, entropy_C = checkpoint(
                of_chunk, *piece, use_reentrant=False, preserve_rng_state=False
            )
        else:
            log_probs_C, entropy_C = of_chunk(*piece)
        chosen.append(log_probs_C)
        entropies.append(entropy_C)
    return torch.cat(chosen), torch.cat(entropies)


def scaled(logits: Tensor, config: Any) -> Tensor:
    """What some models do between head and softmax: Granite divides, Cohere multiplies, Gemma 2 caps."""
    if (factor := _factor(config)) != 1.0:
        logits = logits * factor
    return logits if (cap := _cap(config)) is None else torch.tanh(logits / cap) * cap


def _factor(config: Any) -> float:
    divisor, factor = (getattr(config, name, None) for name in ("logits_scaling", "logit_scale"))
    return float((1.0 if factor is None else factor) / (1.0 if divisor is None else divisor))


def _cap(config: Any) -> float | None:
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap
