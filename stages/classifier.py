"""Text classification: learn which label, or which labels, a text has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..data_formats import Kind
from ..data_formats.scoring.metrics import classification, confusion, multilabel
from ..pipeline.heads import Labels
from .labelled_stage import LabelledStage
from .strategies import Task
from .training_stage import Metrics
from .trl_trainers import TrainerKind


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

    def head_metrics(self, logits: Sequence[Any], gold: Sequence[Sequence[int]], labels: Labels) -> Metrics:
        """loss (nats per row; per row and class of several labels), accuracy, macro_f1; and counts by label."""
        return class_metrics(logits, gold, labels)


def class_metrics(logits: Sequence[Any], classes: Sequence[Sequence[int]], labels: Labels) -> Metrics:
    """What the scores (classes,) of rows are worth against their classes: numbers, and a table by label."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    logits_BC, names = torch.stack(list(logits)), labels.names
    if not labels.several:
        gold = [names[one[0]] for one in classes]
        said = [names[i] for i in logits_BC.argmax(-1).tolist()]
        found = classification(names, gold, said)
        loss = cross_entropy(logits_BC, torch.tensor([one[0] for one in classes]))
        rows = {name: row[:-1] for name, row in zip(names, confusion(names, gold, said), strict=True)}
        return {
            "loss": float(loss),
            "accuracy": found["accuracy"],
            "macro_f1": found["macro_f1"],
            "confusion": {"columns": list(names), "rows": rows},
        }
    targets_BC = torch.zeros_like(logits_BC)
    for target, chosen in zip(targets_BC, classes, strict=True):
        target[list(chosen)] = 1.0
    said_BC = (logits_BC > 0).float()
    golds, saids = ([frozenset(names[i] for i in row.nonzero().flatten().tolist()) for row in one]
                    for one in (targets_BC, said_BC))  # fmt: skip
    counts = zip(targets_BC.sum(0), said_BC.sum(0), (targets_BC * said_BC).sum(0), strict=True)
    by_label = {
        name: {"gold": int(gold), "said": int(said), "right": int(right)}
        for name, (gold, said, right) in zip(names, counts, strict=True)
    }
    loss = binary_cross_entropy_with_logits(logits_BC, targets_BC)
    return {"loss": float(loss), **multilabel(names, golds, saids), "labels": by_label}
