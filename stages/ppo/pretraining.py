"""PPO-ptx: the language loss of other rows, so that the policy does not forget what it was taught.

Ouyang et al., arXiv 2203.02155, section 3.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...pipeline import Ranks
from ..online.log_probs import answer_log_probs
from ..online.roles import Roles

if TYPE_CHECKING:
    from ...data_formats import TokenTable

_UNTRAINED = -100


class PretrainingRows:
    """Rows with labels, taken one after the other in an order drawn anew for each pass."""

    def __init__(self, table: TokenTable, coefficient: float, seed: int, pad_id: int) -> None:
        self._table, self._coefficient, self._seed, self._pad_id = table, coefficient, seed, pad_id

    def backward(self, roles: Roles, ranks: Ranks, step: int, rows: int, micro_batch: int) -> float:
        """Add the gradients of this rank's share of optimizer step `step`, which takes `rows` rows in all.

        Returns its share of the loss, in nats per trained token.
        """
        chosen = [self._table.row(self._row(step * rows + place)) for place in range(rows)]
        tokens = sum(sum(label != _UNTRAINED for label in row["labels"][1:]) for row in chosen)
        own, total = [chosen[i] for i in ranks.mine(rows)], 0.0
        for start in range(0, len(own), micro_batch):
            with roles.as_role("policy") as model:
                loss = self._loss(roles, model, own[start : start + micro_batch]) / max(1, tokens)
                (self._coefficient * loss).backward()
            total += float(loss.detach())
        return total

    def _row(self, place: int) -> int:
        epoch, at = divmod(place, len(self._table))
        generator = torch.Generator().manual_seed((self._seed + epoch) % 2**63)
        return int(torch.randperm(len(self._table), generator=generator)[at])

    def _loss(self, roles: Roles, model: Any, rows: list[dict[str, list[int]]]) -> torch.Tensor:
        """Negative log-likelihood summed over the trained tokens, in nats."""
        width, device = max(len(row["input_ids"]) for row in rows), roles.policy.device

        def padded(name: str, value: int) -> torch.Tensor:
            return torch.tensor(
                [row[name] + [value] * (width - len(row[name])) for row in rows], device=device
            )

        ids_BL, labels_BL = padded("input_ids", self._pad_id), padded("labels", _UNTRAINED)
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows], device=device)
        attention_BL = (torch.arange(width, device=device) < lengths).long()
        states_BLH, targets_BL = roles.states(model, ids_BL, attention_BL)[:, :-1], labels_BL[:, 1:]
        at = targets_BL != _UNTRAINED
        log_probs_N, _ = answer_log_probs(model, states_BLH[at], targets_BL[at], 1.0)
        return -log_probs_N.sum()
