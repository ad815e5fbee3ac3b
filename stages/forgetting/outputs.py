"""What models make of the same rows, compared token by token without two models, or two sets of logits, in memory.

# T tokens of a row, C tokens of a chunk, H hidden size, V vocabulary
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..evaluation import batches, evaluating, pad
from ..online.log_probs import scaled

_CHUNK = 64  # tokens whose logits are there at once, of both models
_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class Outputs:
    """The inputs of a model's output layer: a few MB that outlive the model, and give its logits again."""

    hidden: Sequence[Tensor]  # of each row (T, H), on the CPU
    logits: Callable[[Tensor], Tensor]  # (C, H) to (C, V) in float32; holds the output layer, not the model

    def log_probs(self, row: int, places: slice) -> Tensor:
        """(C, V): in nats, what the model expects behind each of the places."""
        return torch.log_softmax(self.logits(self.hidden[row][places]), -1)


def outputs_of(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Outputs:
    """Run a causal model over rows of token ids; dropout off, no gradients."""
    hidden: list[Tensor] = [torch.empty(0)] * len(rows)
    with evaluating(model), _before_head(model) as caught:
        for chosen in batches([len(ids) for ids in rows], _TOKENS_AT_ONCE):
            ids_BT, mask_BT = pad([rows[i] for i in chosen], pad_id, model.device)
            model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
            states_BTH = caught.pop()[:, -ids_BT.shape[1] :]  # trained prompts stand in front
            for i, states_TH in zip(chosen, states_BTH.cpu(), strict=True):
                hidden[i] = states_TH[: len(rows[i])].clone()
    head, config, device = model.get_output_embeddings(), model.config.get_text_config(), model.device

    def logits(states_CH: Tensor) -> Tensor:
        with torch.no_grad():
            return scaled(head(states_CH.to(device)), config).float()

    return Outputs(hidden, logits)


@contextlib.contextmanager
def _before_head(model: Any) -> Iterator[list[Tensor]]:
    """Catch what goes into the output layer, and let it compute the last token alone."""
    caught: list[Tensor] = []

    def catch(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(inputs[0])
        return (inputs[0][:, -1:],)

    hook = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()


@dataclass(frozen=True)
class Distance:
    """One model against another on one row, summed over its places."""

    kl: float  # nats, KL(reference || model)
    same: int  # places at which both expect the same token most
    places: int
    losses: tuple[float, float]  # nats of the row's tokens but the first: the reference's, the model's


def distance(reference: Outputs, model: Outputs, row: int, ids: Sequence[int]) -> Distance:
    """Exact over the whole vocabulary; a KL of 0.0 for a model that is its reference. ids: of the row."""
    kl, same, losses = 0.0, 0, [0.0, 0.0]
    for places in _chunks(len(ids)):
        p_CV, q_CV = reference.log_probs(row, places), model.log_probs(row, places)
        targets_C = torch.tensor(ids[places.start + 1 : places.stop + 1], device=p_CV.device)
        for i, log_probs_CV in enumerate((p_CV, q_CV)):
            chosen_C = log_probs_CV[: len(targets_C)].gather(-1, targets_C[:, None])
            losses[i] -= float(chosen_C.double().sum())
        same += int((p_CV.argmax(-1) == q_CV.argmax(-1)).sum())
        kl -= float(torch.linalg.vecdot(p_CV.exp(), q_CV.sub_(p_CV)).clamp(max=0.0).double().sum())
    return Distance(kl, same, len(ids), (losses[0], losses[1]))


def token_log_probs(model: Outputs, wanted: Sequence[tuple[int, int, int]]) -> list[float]:
    """Log-probabilities, in nats, of (row, place, token): of the token behind a place of a row."""
    places = list(dict.fromkeys((row, place) for row, place, _ in wanted))
    numbers = {place: i for i, place in enumerate(places)}
    states_NH = torch.stack([model.hidden[row][place] for row, place in places])
    found = [0.0] * len(wanted)
    for chunk in _chunks(len(places)):
        log_probs_CV = torch.log_softmax(model.logits(states_NH[chunk]), -1)
        for i, (row, place, token) in enumerate(wanted):
            if chunk.start <= (at := numbers[row, place]) < chunk.stop:
                found[i] = float(log_probs_CV[at - chunk.start, token])
    return found


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))
