"""The stages of a pipeline and the strategies that they train with."""

from .cpt import CPT
from .dpo import DPO
from .ppo import PPO, RewardModelRef
from .reward_model import RewardModel
from .sft import SFT
from .strategies import Full, LoRA, QLoRA, Strategy
from .training_stage import TrainingStage

__all__ = [
    "CPT",
    "DPO",
    "PPO",
    "SFT",
    "Full",
    "LoRA",
    "QLoRA",
    "RewardModel",
    "RewardModelRef",
    "Strategy",
    "TrainingStage",
]
