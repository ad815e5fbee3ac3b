"""The stages of a pipeline and the strategies that they train with."""

from .classifier import Classifier
from .combining import combine
from .cpt import CPT
from .dpo import DPO
from .evaluate import Evaluate
from .export import Export
from .groups import GRPO, RLOO
from .kto import KTO
from .online import VLLM, RewardModelRef, accuracy_reward, function_call_reward
from .orpo import ORPO
from .planner import auto
from .ppo import PPO
from .reward_model import RewardModel
from .seq2seq import Seq2Seq
from .sft import SFT
from .strategies import (
    BOFT,
    IA3,
    OFT,
    AdaLoRA,
    Adapter,
    Freeze,
    Full,
    GradualUnfreeze,
    LNTuning,
    LoHa,
    LoKr,
    LoRA,
    LoRAGA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    QLoRA,
    Strategy,
    VeRA,
)
from .token_classifier import TokenClassifier
from .training_stage import TrainingStage

__all__ = [
    "BOFT",
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
    "VLLM",
    "AdaLoRA",
    "Adapter",
    "Classifier",
    "Evaluate",
    "Export",
    "Freeze",
    "Full",
    "GradualUnfreeze",
    "LNTuning",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAGA",
    "PTuning",
    "PrefixTuning",
    "PromptTuning",
    "QLoRA",
    "RewardModel",
    "RewardModelRef",
    "Seq2Seq",
    "Strategy",
    "TokenClassifier",
    "TrainingStage",
    "VeRA",
    "accuracy_reward",
    "auto",
    "combine",
    "function_call_reward",
]
