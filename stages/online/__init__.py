"""Training on the policy's own answers: what PPO, GRPO and RLOO share."""

from .rewards import RewardModelRef
from .stage import OnlineStage, check_whole_groups
from .verifiers import accuracy_reward, function_call_reward
from .vllm import VLLM

__all__ = [
    "VLLM",
    "OnlineStage",
    "RewardModelRef",
    "accuracy_reward",
    "check_whole_groups",
    "function_call_reward",
]
