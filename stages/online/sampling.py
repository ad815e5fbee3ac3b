"""Answers sampled from the policy, each from its own random numbers, whatever the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...pipeline.digests import digest_of
from ..merging import MERGED_FROM, merged

TOKENS_AT_ONCE = 32_768  # of one decode batch, prompts and answers padded: bounds the key-value cache


@dataclass(frozen=True)
class Answer:
    """What the policy said to one prompt."""

    ids: tuple[int, ...]  # up to and with the stop token
    stopped: bool  # ended by a stop token, not cut at max_new_tokens
    log_probs: tuple[float, ...] | None = None  # by another program that sampled: compared, not learned from


class Sampler(Protocol):
    """Anything that can answer prompts as the policy: transformers here, vLLM in `vllm/`."""

    @property
    def copies_of_the_base(self) -> int:
        """That it holds in this process beside the policy's own."""

    def sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Answer]:
        """One answer to each prompt, drawn at the policy's temperature from the numbers of its seed."""


@dataclass(frozen=True)
class TransformersSampler:
    """`generate` with a KV cache and left padding, batched by length."""

    model: Any
    pad_id: int
    stop_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float  # 0: greedy
    merges: bool = False  # whether adapters may go into the weights while it decodes

    @property
    def copies_of_the_base(self) -> int:
        return 0

    def sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(prompts)
        long = self.max_new_tokens >= MERGED_FROM
        with merged(self.model) if self.merges and long else contextlib.nullcontext():
            for rows in self._batches([len(prompt) for prompt in prompts]):
                for row, answer in zip(
                    rows, self._decode([prompts[r] for r in rows], [seeds[r] for r in rows]), strict=True
                ):
                    answers[row] = answer
        return [answer for answer in answers if answer is not None]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows of similar length together, longest first."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
            width = lengths[batch[0] if batch else row] + self.max_new_tokens
            if batch and (len(batch) + 1) * width > TOKENS_AT_ONCE:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _decode(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Answer]:
        from transformers import GenerationConfig, LogitsProcessorList

        width, device = max(map(len, prompts)), self.model.device
        ids_BL = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        attention_BL = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=self.max_new_tokens, pad_token_id=self.pad_id,
            eos_token_id=list(self.stop_ids), use_cache=True,
        )  # fmt: skip
        draw = [_Draw(seeds, self.max_new_tokens, width, self.temperature)] if self.temperature else []
        with torch.no_grad(), _only(config, self.model):
            out_BL = self.model.generate(
                input_ids=ids_BL, attention_mask=attention_BL, generation_config=config,
                logits_processor=LogitsProcessorList(draw),
            )  # fmt: skip
        return [cut(row, self.stop_ids) for row in out_BL[:, width:].tolist()]


@contextlib.contextmanager
def _only(config: Any, model: Any) -> Iterator[None]:
    """Take the model's own generation config away: `generate` fills what is not given from it, and a repetition
    penalty or top_k would make the log-probabilities others than those of the sampling policy.
    """
    owners = [model, *([model.get_base_model()] if hasattr(model, "peft_config") else [])]
    kept = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, own in zip(owners, kept, strict=True):
            owner.generation_config = own


def cut(ids: Sequence[int], stop_ids: Sequence[int]) -> Answer:
    """The answer in what was said: up to and with the first stop token."""
    stops = (i for i, token in enumerate(ids) if token in stop_ids)
    end = next(stops, None)
    return Answer(tuple(ids), False) if end is None else Answer(tuple(ids[: end + 1]), True)


class _Draw:
    """Exact sampling by inverting the distribution function at a number drawn beforehand.

    So an answer depends on its seed alone: not on the rows beside it, on other ranks, or on what ran before.
    """

    def __init__(self, seeds: Sequence[int], tokens: int, prompt_width: int, temperature: float) -> None:
        numbers = [
            torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
        self._numbers_BT = torch.stack(numbers)
        self._prompt_width, self._temperature = prompt_width, temperature

    def __call__(self, ids_BL: Tensor, logits_BV: Tensor) -> Tensor:
        step = ids_BL.shape[1] - self._prompt_width
        probabilities_BV = torch.softmax(logits_BV.float() / self._temperature, -1).double()
        sums_BV = probabilities_BV.cumsum(-1)
        at_B1 = self._numbers_BT[:, step : step + 1].to(logits_BV.device) * sums_BV[:, -1:]
        chosen_B1 = torch.searchsorted(sums_BV, at_B1, right=True).clamp(max=logits_BV.shape[1] - 1)
        return torch.full_like(logits_BV, -torch.inf).scatter(1, chosen_B1, 0.0)


def row_seed(*parts: Any) -> int:
    """The seed of one answer: of the stage's seed, the step, and the row."""
    return int(digest_of(list(parts))[:15], 16)


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer: the tokenizer's end token and those of the model's generation config."""
    given = model.generation_config.eos_token_id
    configured = given if isinstance(given, list) else [given]
    return tuple(sorted({int(i) for i in (*configured, tokenizer.eos_token_id) if i is not None}))
