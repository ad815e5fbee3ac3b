"""Exact held-out numbers of a live model: every token, pair and row counts once, whatever the batches.

# B rows of a batch, T tokens of its longest row
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data_formats.questions import room_for
from .merging import merged_where_it_pays

if TYPE_CHECKING:
    from ..data_formats import Question, TokenTable
    from ..data_formats.scoring.metrics import Answer

Row = tuple[Sequence[int], Sequence[int]]  # (input ids, labels), labels -100 where nothing is trained


@dataclass(frozen=True)
class LogProbs:
    """Summed log-probabilities (nats) of each row's trained tokens, and how many there are."""

    sums: list[float]
    counts: list[int]

    @property
    def mean_loss(self) -> float:
        """Mean negative log-likelihood per trained token, in nats."""
        return -sum(self.sums) / max(1, sum(self.counts))


_LOGIT_BYTES = 512e6  # of a batch's float32 logits; a vocabulary of 152,000 takes 0.6 MB per token
_ROW_TOKENS = 128  # of one row whose log-probabilities are taken at once


def log_probs(model: Any, rows: Sequence[Row], pad_id: int) -> LogProbs:
    """What a causal model gives to the trained tokens of each row; dropout off, no gradients."""
    import torch

    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with evaluating(model):
        for chosen in batches([len(ids) for ids, _ in rows], _LOGIT_BYTES / 4 / model.config.vocab_size):
            ids_BT, mask_BT = pad([rows[i][0] for i in chosen], pad_id, model.device)
            labels_BT, _ = pad([rows[i][1] for i in chosen], -100, model.device)
            targets_BT = labels_BT[:, 1:]
            kept_K = (targets_BT != -100).any(0).nonzero()[:, 0]
            logits_BKV, targets_BK = _forward(model, ids_BT, mask_BT, kept_K), targets_BT[:, kept_K]
            for place, i in enumerate(
                chosen
            ):  # row by row: float32 log-softmax of the trained positions only
                at_N = (targets_BK[place] != -100).nonzero()[:, 0]
                found = [
                    torch.log_softmax(logits_BKV[place, part].float(), -1).gather(
                        -1, targets_BK[place][part, None]
                    )
                    for part in at_N.split(_ROW_TOKENS)
                ]
                sums[i] = float(torch.cat(found).double().sum())
                counts[i] = len(at_N)
    return LogProbs(sums, counts)


def answer_rows(table: TokenTable, column: str, places: Iterable[int] | None = None) -> list[Row]:
    """Rows for `log_probs`: prompt and answer, with the prompt untrained; of all rows or of some."""
    rows = [table.row(i) for i in (range(len(table)) if places is None else places)]
    return [(row["prompt_ids"] + row[column], [-100] * len(row["prompt_ids"]) + row[column]) for row in rows]


_SCORED_TOKENS = 4096  # tokens of a batch that a reward model scores


def scores(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> list[float]:
    """What a reward model gives to each row of token ids; dropout off, no gradients."""
    out = [0.0] * len(rows)
    with evaluating(model):
        for chosen in batches([len(ids) for ids in rows], _SCORED_TOKENS):
            ids_BT, mask_BT = pad([rows[i] for i in chosen], pad_id, model.device)
            logits_B1 = _forward(model, ids_BT, mask_BT)
            for i, score in zip(chosen, logits_B1[:, 0].float().tolist(), strict=True):
                out[i] = score
    return out


def head_logits(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> list[Any]:
    """What a classification head gives to each row of token ids, float32 on the CPU: (classes,), or (T, tags)."""
    out: list[Any] = [None] * len(rows)
    with evaluating(model):
        for chosen in batches([len(ids) for ids in rows], _SCORED_TOKENS):
            ids_BT, mask_BT = pad([rows[i] for i in chosen], pad_id, model.device)
            for i, values in zip(chosen, _forward(model, ids_BT, mask_BT).float().cpu(), strict=True):
                out[i] = values[: len(rows[i])] if values.dim() == 2 else values
    return out


def answer_log_probs(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int
) -> LogProbs:
    """What a sequence-to-sequence model gives to the answers of (prompt ids, answer ids)."""
    import torch

    sums = [0.0] * len(rows)
    room = _LOGIT_BYTES / 4 / model.config.vocab_size
    with evaluating(model):
        for chosen in batches([max(map(len, row)) for row in rows], room):
            ids_BT, mask_BT = pad([rows[i][0] for i in chosen], pad_id, model.device)
            labels_BT, _ = pad([rows[i][1] for i in chosen], -100, model.device)
            read_BT = model.prepare_decoder_input_ids_from_labels(labels_BT)
            logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, decoder_input_ids=read_BT).logits
            losses_N = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), reduction="none"
            )
            for i, loss in zip(chosen, losses_N.view_as(labels_BT).double().sum(1).tolist(), strict=True):
                sums[i] = -loss
    return LogProbs(sums, [len(answer) for _, answer in rows])


def _forward(model: Any, ids_BT: Any, mask_BT: Any, kept_K: Any = None) -> Any:
    """Logits, without the places that trained prompts take in front: (B, T, vocabulary or tags), or (B, classes).

    kept_K: the places whose logits are wanted, (B, K, vocabulary); other places are not sent through the head where the
    model can leave them out. A decoder beside an encoder is given the same ids, which is as good as others for a comparison.
    """
    more: dict[str, Any] = {"decoder_input_ids": ids_BT} if model.config.is_encoder_decoder else {}
    if getattr(model.config, "use_cache", False):
        more["use_cache"] = False
    width = ids_BT.shape[1]
    leaves_out = kept_K is not None and _takes(model, "logits_to_keep")
    if leaves_out:
        more["logits_to_keep"] = kept_K - width  # from the end: there may be trained prompts in front
    values = model(input_ids=ids_BT, attention_mask=mask_BT, **more).logits
    if leaves_out or values.dim() != 3:
        return values
    values = values[:, -width:]
    return values if kept_K is None else values[:, kept_K]


def _takes(model: Any, name: str) -> bool:
    """Whether the model below any adapter has an argument of this name."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return name in inspect.signature(type(inner).forward).parameters


def logits(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Any:
    """Logits of a few rows, float32 on the CPU, padding set to zero: (B, T, vocabulary or tags), or (B, classes)."""
    with evaluating(model):
        ids_BT, mask_BT = pad(rows, pad_id, model.device)
        values = _forward(model, ids_BT, mask_BT).float().cpu()
        return values * mask_BT.cpu()[..., None] if values.dim() == 3 else values


def mean_kl(p_logits: Any, q_logits: Any) -> float:
    """Mean KL(p || q) per token in nats, over the positions where p has logits."""
    import torch

    at = p_logits.abs().sum(-1) > 0
    p, q = torch.log_softmax(p_logits[at].double(), -1), torch.log_softmax(q_logits[at].double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def generate(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy answers to rendered prompts, in one left-padded batch."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    made = _continue(model, ids, max_new_tokens, tokenizer.pad_token_id, [tokenizer.eos_token_id])
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in made]


_ASKED_AT_ONCE = 32


def answers(
    model: Any, tokenizer: Any, questions: Sequence[Question], *, within_budget: bool = True
) -> tuple[list[Question], list[Answer]]:
    """(the questions asked, the model's greedy answers to them); as many as the budget of `questions` allows, or all."""
    from ..data_formats.questions import affordable
    from ..data_formats.scoring.metrics import Answer

    asked = affordable(questions) if within_budget else list(questions)
    found = []
    for at in range(0, len(asked), _ASKED_AT_ONCE):
        batch = asked[at : at + _ASKED_AT_ONCE]
        stops = sorted({tokenizer.eos_token_id, *(question.stop_id for question in batch)})
        room = max(map(room_for, batch))
        made = _continue(model, [one.prompt_ids for one in batch], room, tokenizer.pad_token_id, stops)
        for row in made:
            ends = [i for i, token in enumerate(row) if token in stops]
            said = row[: ends[0]] if ends else row
            shown = tokenizer.decode(said, skip_special_tokens=model.config.is_encoder_decoder)
            found.append(Answer(shown.strip(), bool(ends)))
    return asked, found


def continuations(
    model: Any, ids: Sequence[Sequence[int]], max_new_tokens: int, pad: int, stops: Sequence[int]
) -> list[list[int]]:
    """Greedy answers to prompts of any number, up to and without their stop tokens."""
    found = []
    for at in range(0, len(ids), _ASKED_AT_ONCE):
        for row in _continue(model, ids[at : at + _ASKED_AT_ONCE], max_new_tokens, pad, stops):
            ends = [i for i, token in enumerate(row) if token in stops]
            found.append(row[: ends[0]] if ends else row)
    return found


def _continue(
    model: Any, ids: Sequence[Sequence[int]], max_new_tokens: int, pad: int, stops: Sequence[int]
) -> list[list[int]]:
    """The tokens that greedy decoding adds to each prompt, with padding behind the stop token."""
    import torch

    width = max(map(len, ids))
    batch = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    with evaluating(model), merged_where_it_pays(model, max_new_tokens):
        out = model.generate(
            input_ids=batch, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad,
            eos_token_id=list(stops),
        )  # fmt: skip
    begin = (
        1 if model.config.is_encoder_decoder else width
    )  # a decoder of its own begins with one start token
    rows: list[list[int]] = out[:, begin:].tolist()
    return rows


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off, no gradients, and none of the mixed precision that accelerate puts around a trained model.

    So a model gives the same numbers before training, after it, and when it is read back from disk.
    """
    import torch

    training, autocast = model.training, None
    if "_original_forward" in vars(model):
        autocast, model.forward = model.forward, model._original_forward
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        if autocast is not None:
            model.forward = autocast


def batches(lengths: Sequence[int], tokens: float) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first, in batches of at most `tokens` padded tokens (or one row)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], value: int, device: Any) -> tuple[Any, Any]:
    """(B, T) rows padded on the right, and the mask of the real tokens."""
    import torch

    width = max(map(len, rows))
    padded = [list(row) + [value] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)
