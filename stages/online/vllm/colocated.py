"""vLLM in this process, on its own copy of the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import SamplerError

from .engine import Adapter, Limits, Said
from .settings import RANKS


class ColocatedEngine:
    """A `vllm.LLM` that is given the policy's adapter anew whenever it has moved."""

    copies_of_the_base = 1

    def __init__(
        self, base: Path, *, dtype: str, rank: int, max_length: int, gpu_memory: float, seed: int
    ) -> None:
        """Raises SamplerError with vLLM's reason when it does not start."""
        from vllm import LLM

        try:
            self._llm = LLM(
                model=str(base), dtype=dtype, max_model_len=max_length, gpu_memory_utilization=gpu_memory,
                enable_lora=True, max_loras=1, max_lora_rank=next(room for room in RANKS if room >= rank),
                generation_config="vllm", trust_remote_code=False, load_format="safetensors", seed=seed % 2**31,
            )  # fmt: skip
        except Exception as error:
            raise SamplerError(
                f"vLLM does not start on {base} ({_one_line(error)}); where memory is short change "
                "VLLM(gpu_memory=...) or batch_size."
            ) from error
        self._numbers: dict[str, int] = {}  # vLLM keeps adapters by number: a number is never used twice
        self._used = 0

    def load(self, adapter: Adapter) -> None:
        self._used += 1
        self._numbers[adapter.name] = self._used

    def unload(self, adapter: Adapter) -> None:
        self._llm.llm_engine.remove_lora(self._numbers.pop(adapter.name))

    def answer(
        self, adapter: Adapter, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Limits
    ) -> list[Said]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        try:
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                [SamplingParams(**limits.request(seed), detokenize=False) for seed in seeds],
                lora_request=LoRARequest(adapter.name, self._numbers[adapter.name], str(adapter.folder)),
                use_tqdm=False,
            )
        except Exception as error:
            raise SamplerError(f"vLLM failed while it answered ({_one_line(error)}).") from error
        return [_said(output.outputs[0]) for output in outputs]


def _said(output: Any) -> Said:
    ids = tuple(output.token_ids)
    by_token = output.logprobs or ()
    found = tuple(float(at[token].logprob) for at, token in zip(by_token, ids, strict=False))
    return Said(ids, found, output.finish_reason)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
