"""The stages of a pipeline and the strategies that they train with."""

from .auto import auto
from .cpt import CPT
from .dpo import DPO
from .groups import GRPO, RLOO
from .kto import KTO
from .online import RewardModelRef
from .orpo import ORPO
from .ppo import PPO
from .reward_model import RewardModel
from .sft import SFT
from .strategies import IA3, OFT, AdaLoRA, Freeze, Full, LoRA, QLoRA, Strategy, VeRA
from .training_stage import TrainingStage

__all__ = [
    "CPT",
    "DPO",
    "GRPO",
    "IA3",
    "KTO",
    "OFT",
    "ORPO",
    "PPO",
    "RLOO",
    "SFT",
    "AdaLoRA",
    "Freeze",
    "Full",
    "LoRA",
    "QLoRA",
    "RewardModel",
    "RewardModelRef",
    "Strategy",
    "TrainingStage",
    "VeRA",
    "auto",
]
