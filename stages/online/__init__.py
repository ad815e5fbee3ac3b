"""Training on the policy's own answers: what PPO, GRPO and RLOO share."""

from .rewards import RewardModelRef
from .stage import OnlineStage
from .vllm import VLLM

__all__ = ["VLLM", "OnlineStage", "RewardModelRef"]
