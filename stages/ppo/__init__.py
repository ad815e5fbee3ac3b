"""Proximal policy optimisation on one copy of the weights."""

from .rewards import RewardModelRef
from .stage import PPO, PPOArguments

__all__ = ["PPO", "PPOArguments", "RewardModelRef"]
