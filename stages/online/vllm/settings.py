"""How vLLM is asked for, and what it cannot answer for; found out before anything is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from posttrain.errors import SettingError, StrategyError

from ....pipeline import Ranks
from ....pipeline.settings import CheckedSettings, check_number, refuse

if TYPE_CHECKING:
    from ...strategies import Strategy

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


@dataclass(frozen=True)
class VLLM(CheckedSettings):
    """vLLM samples the answers, from the policy's adapter as it is at each rollout.

    url: None runs the engine in this process, on a copy of the base of its own; else the address of a running
    `vllm serve`, as "http://127.0.0.1:8000", which must be able to read the run folder under the same path. A server
    that asks for a key is given the one in the environment variable VLLM_API_KEY.
    gpu_memory: share of the GPU's memory that the engine in this process may take. timeout_s: seconds that a server
    may take for one answer or one adapter.

    >>> PPO(LoRA(r=16), data="prompts.jsonl", sampler=VLLM("http://127.0.0.1:8000"))     # doctest: +SKIP
    """

    url: str | None = None
    gpu_memory: float = 0.3
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("gpu_memory", "timeout_s"):
            if getattr(self, name) is None:
                refuse("VLLM", name, None, "a number")
        check_number("VLLM", "gpu_memory", self.gpu_memory, above=0.0, below=1.0)
        check_number("VLLM", "timeout_s", self.timeout_s, above=0.0)
        if self.url is not None:
            _check_url(self.url)

    def check(self, stage: str, strategy: Strategy) -> None:
        """Refuse a policy that vLLM cannot answer for, and an engine that is not there."""
        if not strategy.capabilities.plain_lora:
            raise StrategyError(
                f"Stage {stage}: vLLM cannot answer for a policy of {strategy}: it reads the matrices A and B of LoRA on a "
                "16- or 32-bit base, and no DoRA, biases, modules_to_save, starts that change the base, or other "
                'kinds; take a plain LoRA(), or sampler="transformers".'
            )
        rank: int = strategy.r  # type: ignore[attr-defined]
        if rank > RANKS[-1]:
            raise StrategyError(
                f"Stage {stage}: {strategy} has the rank {rank}, and vLLM takes {RANKS[-1]} at most; lower r."
            )
        if self.url is None:
            _check_engine(stage)


def _check_engine(stage: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise SettingError(
            f"Stage {stage}: sampler=VLLM() runs vLLM in this process, and it is not installed; run pip install vllm, or "
            'give the address of a server, VLLM("http://127.0.0.1:8000").'
        )
    if (ranks := Ranks.of_environment().size) > 1:
        raise SettingError(
            f"Stage {stage}: an engine in the process is for one process, and there are {ranks}; start a server and give "
            "its address, VLLM(url)."
        )


def _check_url(url: Any) -> None:
    wanted = "the address of a server, as 'http://127.0.0.1:8000'"
    if not isinstance(url, str):
        refuse("VLLM", "url", url, wanted)
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment:
        refuse("VLLM", "url", url, wanted)
    if parts.username or parts.password:  # not shown: the message would be the leak
        raise SettingError("VLLM(url=...): put no key into the address; set VLLM_API_KEY instead.")
