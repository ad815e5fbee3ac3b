"""vLLM answers for the policy: an engine in this process, or a server that somebody started."""

from .settings import VLLM

__all__ = ["VLLM"]
