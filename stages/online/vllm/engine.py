"""What is asked of vLLM, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Adapter:
    """The policy's adapter at one moment, in PEFT's layout."""

    name: str  # names its content: another policy has another name
    folder: Path


@dataclass(frozen=True)
class Limits:
    """Of one answer. Nothing else shapes the distribution: no top_p, top_k, min_p or penalty."""

    stop_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float

    def request(self, seed: int) -> dict[str, Any]:
        """By vLLM's names. `ignore_eos`: it is our stop tokens that end an answer, and no others."""
        return {
            "max_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": seed,
            "stop_token_ids": list(self.stop_ids), "ignore_eos": True, "logprobs": 1,
            "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What vLLM gives back for one prompt."""

    ids: tuple[int, ...]  # with the stop token
    log_probs: tuple[float, ...]  # of these tokens at temperature 1, as vLLM's own arithmetic has them
    reason: str | None  # why it ended, for people


class Engine(Protocol):
    """vLLM in this process, or a server."""

    copies_of_the_base: int  # that it holds in this process

    def load(self, adapter: Adapter) -> None:
        """Make room for the adapter, which stays in its folder until `unload`."""

    def unload(self, adapter: Adapter) -> None:
        """It is not asked for again."""

    def answer(
        self, adapter: Adapter, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Limits
    ) -> list[Said]:
        """One answer to each prompt, from the base with this adapter. Raises SamplerError."""
