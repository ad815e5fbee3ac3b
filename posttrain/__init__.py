"""One object from raw text to an aligned model: `Pipeline([SFT(lora), DPO(lora)]).run()`."""

from pathlib import Path as _Path

# A wheel holds the folders pipeline/, stages/, ... inside this one; a checkout holds them beside it.
if not (_Path(__file__).parent / "stages").is_dir():
    __path__.append(str(_Path(__file__).parents[1]))

from posttrain.data_formats import Data
from posttrain.errors import PosttrainError, RunInterrupted
from posttrain.pipeline import ModelRef, Pipeline, Run, Stage, StageContext, StageResult
from posttrain.stages import (
    CPT,
    DPO,
    GRPO,
    IA3,
    KTO,
    OFT,
    ORPO,
    PPO,
    RLOO,
    SFT,
    AdaLoRA,
    Freeze,
    Full,
    LoRA,
    QLoRA,
    RewardModel,
    RewardModelRef,
    Strategy,
    VeRA,
    auto,
)

__version__ = "0.1.0"
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
    "Data",
    "Freeze",
    "Full",
    "LoRA",
    "ModelRef",
    "Pipeline",
    "PosttrainError",
    "QLoRA",
    "RewardModel",
    "RewardModelRef",
    "Run",
    "RunInterrupted",
    "Stage",
    "StageContext",
    "StageResult",
    "Strategy",
    "VeRA",
    "auto",
]
