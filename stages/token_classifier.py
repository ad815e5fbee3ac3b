"""Token classification: learn which spans of a text are named, and what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..data_formats import Kind
from ..data_formats.scoring.metrics import span_f1
from ..data_formats.tokens.tagging import spans_of
from ..pipeline.heads import Labels
from .intervals import Measured
from .labelled_stage import LabelledStage
from .strategies import Task
from .trl_trainers import TrainerKind


@dataclass(frozen=True)
class TokenClassifier(LabelledStage):
    """Named entities: one BIO tag for each token, from a head that is always trained and saved.

    Rows are {"text", "spans": [{"start", "end", "label"}]}, in characters. Every token that shares a character with a
    span is tagged; special tokens are not. On a causal model a token is tagged by what stands before it alone. Makes
    the role "token_classifier": `run.token_classifier.load()` gives a model whose `config.id2label` has the tags.

    >>> TokenClassifier(LoRA(r=16), data="entities.jsonl")     # doctest: +SKIP
    """

    makes: ClassVar[str] = "token_classifier"
    kind: ClassVar[Kind] = "tagged"
    trainer: ClassVar[TrainerKind] = "token_classifier"
    task: ClassVar[Task] = "token_classifier"
    gold: ClassVar[str] = "labels"

    def head_metrics(self, logits: Sequence[Any], gold: Sequence[Sequence[int]], labels: Labels) -> Measured:
        """loss (nats per tagged token); precision, recall and f1 of exact spans of tokens; and counts by label."""
        return tag_metrics(logits, gold, labels)


def tag_metrics(logits: Sequence[Any], tags: Sequence[Sequence[int]], labels: Labels) -> Measured:
    """What the scores (T, tags) of rows are worth against their tags, -100 where a token has none."""
    import torch
    from torch.nn.functional import cross_entropy

    losses, golds, saids = [], [], []
    for logits_TC, row in zip(logits, tags, strict=True):
        tags_T = torch.tensor(row)
        losses.append(float(cross_entropy(logits_TC, tags_T, ignore_index=-100, reduction="sum")))
        golds.append(spans_of(row, labels.names))
        saids.append(spans_of(torch.where(tags_T == -100, -100, logits_TC.argmax(-1)).tolist(), labels.names))
    rights = [(Counter(gold) & Counter(said)).elements() for gold, said in zip(golds, saids, strict=True)]
    gold, said, right = (
        Counter(label for row in rows for label, _ in row) for rows in (golds, saids, rights)
    )
    by_label = {
        name.removeprefix("B-"): {kind: counts[name.removeprefix("B-")] for kind, counts in
                                  (("gold", gold), ("said", said), ("right", right))}
        for name in labels.names if name.startswith("B-")
    }  # fmt: skip
    counts = [sum(tag != -100 for tag in row) for row in tags]

    def of(at: Iterable[int]) -> dict[str, float]:
        chosen = list(at)
        loss = sum(losses[i] for i in chosen) / sum(counts[i] for i in chosen)
        return {"loss": loss, **span_f1([golds[i] for i in chosen], [saids[i] for i in chosen])}

    return Measured(len(tags), of, {"labels": by_label})
