"""GRPO and RLOO: several answers to each prompt, compared with each other."""

from .stage import GRPO, RLOO

__all__ = ["GRPO", "RLOO"]
