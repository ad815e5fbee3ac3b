"""transformers' trainers over token tables: for classification heads, and for sequence-to-sequence models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..pipeline.heads import Labels
from .evaluation import pad

Rows = Sequence[Mapping[str, Any]]
Collator = Callable[[Rows], dict[str, Any]]


def table_trainer(kind: str) -> type:
    """The Trainer of "classifier" and "token_classifier", the Seq2SeqTrainer of "seq2seq"."""
    from transformers import Seq2SeqTrainer, Trainer

    collators: Mapping[str, Callable[[Any, int], Collator]] = {
        "classifier": _classes,
        "token_classifier": _tags,
        "seq2seq": _exchanges,
    }

    class TableTrainer(Seq2SeqTrainer if kind == "seq2seq" else Trainer):  # type: ignore[misc]
        def __init__(self, model: Any, args: Any, processing_class: Any, **settings: Any) -> None:
            super().__init__(
                model=model,
                args=args,
                processing_class=processing_class,
                data_collator=collators[kind](model, processing_class.pad_token_id),
                compute_loss_func=mean_loss(args.label_smoothing_factor),
                **settings,
            )
            # Several heads of transformers take num_items_in_batch and do not divide by it.
            self.model_accepts_loss_kwargs = False

    return TableTrainer


def mean_loss(smoothing: float) -> Callable[..., Any]:
    """Nats per label over everything that makes one optimizer step: rows, tagged tokens, or answer tokens.

    Cross-entropy; where labels are 0.0 or 1.0 for each class, binary cross-entropy per row and class.
    smoothing: of the targets (Szegedy et al., arXiv 1512.00567).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        logits = outputs.logits.float()
        if labels.is_floating_point():
            targets = labels * (1 - smoothing) + smoothing / 2
            total = binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        else:
            total = cross_entropy(
                logits.flatten(0, -2), labels.flatten(), reduction="sum", label_smoothing=smoothing
            )
        return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def _classes(model: Any, pad_id: int) -> Collator:
    labels = Labels.of(model.config)

    def collate(rows: Rows) -> dict[str, Any]:
        import torch

        chosen = [row["classes"] for row in rows]
        classes = (
            torch.tensor([one[0] for one in chosen])
            if not labels.several
            else torch.zeros(len(rows), len(labels.names))
        )
        if labels.several:
            for row, several in zip(classes, chosen, strict=True):
                row[list(several)] = 1.0
        return {**_padded(rows, "input_ids", pad_id), "labels": classes}

    return collate


def _tags(model: Any, pad_id: int) -> Collator:
    def collate(rows: Rows) -> dict[str, Any]:
        labels, _ = pad([row["labels"] for row in rows], -100, "cpu")
        return {**_padded(rows, "input_ids", pad_id), "labels": labels}

    return collate


def _exchanges(model: Any, pad_id: int) -> Collator:
    def collate(rows: Rows) -> dict[str, Any]:
        labels, _ = pad([row["completion_ids"] for row in rows], -100, "cpu")
        read = model.prepare_decoder_input_ids_from_labels(labels)
        return {**_padded(rows, "prompt_ids", pad_id), "decoder_input_ids": read, "labels": labels}

    return collate


def _padded(rows: Rows, column: str, pad_id: int) -> dict[str, Any]:
    ids, mask = pad([row[column] for row in rows], pad_id, "cpu")
    return {"input_ids": ids, "attention_mask": mask}
