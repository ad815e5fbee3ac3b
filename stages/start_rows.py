"""A few rows of a stage's table as batches with a loss, for adapters whose start depends on the data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .evaluation import Row, answer_rows, pad
from .strategies import Task

if TYPE_CHECKING:
    from torch import Tensor

    from ..data_formats import TokenTable

_ROWS = 64  # LoRA-GA's paper estimates its gradients from as many


@dataclass(frozen=True)
class RowsOfTable:
    """Up to 64 rows, drawn from `seed`, in batches of `batch_size`.

    A language model's loss is that of the answers, of pairs the chosen ones; a reward model's that of its pairs.
    """

    table: TokenTable
    task: Task
    batch_size: int
    pad_id: int
    seed: int

    def batches(self) -> Iterator[Mapping[str, Tensor]]:
        """input_ids and attention_mask (B, T), and labels (B, T) of a language model, -100 where nothing is learned.

        Of a reward model: the chosen rows of a batch, then, in the same order, the rejected ones.
        """
        rows = self._rows()
        for at in range(0, len(rows[0]), self.batch_size):
            yield self._batch([row for side in rows for row in side[at : at + self.batch_size]])

    def _batch(self, rows: list[Row]) -> Mapping[str, Tensor]:
        ids_BT, mask_BT = pad([ids for ids, _ in rows], self.pad_id, "cpu")
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if self.task == "reward":
            return batch
        return {**batch, "labels": pad([labels for _, labels in rows], -100, "cpu")[0]}

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean over the batch's trained tokens, or over its pairs, in nats."""
        import torch

        out = model(**{name: value.to(model.device) for name, value in batch.items()}, use_cache=False)
        if self.task != "reward":
            found: Tensor = out.loss
            return found
        chosen_B, rejected_B = out.logits[:, 0].chunk(2)
        return -torch.nn.functional.logsigmoid(chosen_B - rejected_B).mean()

    def _rows(self) -> list[list[Row]]:
        """One list of rows, or, of pairs for a reward model, the chosen and the rejected ones."""
        columns, count = self.table.columns, len(self.table)
        places = sorted(random.Random(self.seed).sample(range(count), min(_ROWS, count)))
        if "chosen_ids" in columns:
            sides = ("chosen_ids", "rejected_ids") if self.task == "reward" else ("chosen_ids",)
            return [answer_rows(self.table, side, places) for side in sides]
        if "completion_ids" in columns:
            labels = self.table.numbers["label"]
            good = [place for place in places if labels[place]] or places
            return [answer_rows(self.table, "completion_ids", good)]
        found = [self.table.row(place) for place in places]
        return [[(row["input_ids"], row["labels"]) for row in found]]
