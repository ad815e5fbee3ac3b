"""Text classification: learn which label, or which labels, a text has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..data_formats import Kind
from ..data_formats.scoring.metrics import classification, confusion, multilabel
from ..pipeline.heads import Labels
from .intervals import Measured
from .labelled_stage import LabelledStage
from .strategies import Task
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Classifier(LabelledStage):
    """One score per class, from a head that is always trained and saved, on a BERT-like or a causal model.

    Rows are {"text", "label"}. Where labels are lists, a text has any number of them: binary cross-entropy for each
    class, and those with a probability above one half are said. Makes the role "classifier": `run.classifier.load()`
    gives a model whose `config.id2label` has the names. Usual learning rates: 1e-5 to 5e-5 for Full, 10 times that
    for LoRA.

    >>> Classifier(LoRA(r=16), data="reviews.csv", epochs=3)     # doctest: +SKIP
    """

    makes: ClassVar[str] = "classifier"
    kind: ClassVar[Kind] = "labelled"
    trainer: ClassVar[TrainerKind] = "classifier"
    task: ClassVar[Task] = "classifier"
    gold: ClassVar[str] = "classes"

    def head_metrics(self, logits: Sequence[Any], gold: Sequence[Sequence[int]], labels: Labels) -> Measured:
        """loss (nats per row; per row and class of several labels), accuracy, macro_f1; and counts by label."""
        return class_metrics(logits, gold, labels)


def class_metrics(logits: Sequence[Any], classes: Sequence[Sequence[int]], labels: Labels) -> Measured:
    """What the scores (classes,) of rows are worth against their classes: numbers, and a table by label."""
    import torch

    logits_BC = torch.stack(list(logits))
    return (_several if labels.several else _one)(logits_BC, classes, labels.names)


def _one(logits_BC: Any, classes: Sequence[Sequence[int]], names: Sequence[str]) -> Measured:
    import torch
    from torch.nn.functional import cross_entropy

    gold = [names[one[0]] for one in classes]
    said = [names[i] for i in logits_BC.argmax(-1).tolist()]
    losses = cross_entropy(logits_BC, torch.tensor([one[0] for one in classes]), reduction="none").numpy()

    def of(at: np.ndarray) -> dict[str, float]:
        found = classification(names, [gold[i] for i in at], [said[i] for i in at])
        return {
            "loss": float(losses[at].mean()),
            "accuracy": found["accuracy"],
            "macro_f1": found["macro_f1"],
        }

    rows = {name: row[:-1] for name, row in zip(names, confusion(names, gold, said), strict=True)}
    return Measured(len(gold), of, {"confusion": {"columns": list(names), "rows": rows}})


def _several(logits_BC: Any, classes: Sequence[Sequence[int]], names: Sequence[str]) -> Measured:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    targets_BC = torch.zeros_like(logits_BC)
    for target, chosen in zip(targets_BC, classes, strict=True):
        target[list(chosen)] = 1.0
    said_BC = (logits_BC > 0).float()
    golds, saids = ([frozenset(names[i] for i in row.nonzero().flatten().tolist()) for row in one]
                    for one in (targets_BC, said_BC))  # fmt: skip
    losses = binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none").mean(1).numpy()

    def of(at: np.ndarray) -> dict[str, float]:
        found = multilabel(names, [golds[i] for i in at], [saids[i] for i in at])
        return {"loss": float(losses[at].mean()), **found}

    counts = zip(targets_BC.sum(0), said_BC.sum(0), (targets_BC * said_BC).sum(0), strict=True)
    by_label = {
        name: {"gold": int(gold), "said": int(said), "right": int(right)}
        for name, (gold, said, right) in zip(names, counts, strict=True)
    }
    return Measured(len(golds), of, {"labels": by_label})
