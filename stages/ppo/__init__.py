"""Proximal policy optimisation on one copy of the weights."""

from .stage import PPO, PPOArguments

__all__ = ["PPO", "PPOArguments"]
