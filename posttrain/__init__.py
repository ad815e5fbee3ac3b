"""One object from raw text to an aligned model: `Pipeline([SFT(lora), DPO(lora)]).run()`."""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

# A wheel holds the folders pipeline/, stages/, ... inside this one; a checkout holds them beside it.
if not (_Path(__file__).parent / "stages").is_dir():
    __path__.append(str(_Path(__file__).parents[1]))

if TYPE_CHECKING:
    from posttrain.data_formats import Data
    from posttrain.errors import PosttrainError, RunInterrupted
    from posttrain.pipeline import ModelRef, Pipeline, Run, Stage, StageContext, StageResult
    from posttrain.stages import (
        BOFT,
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
        VLLM,
        AdaLoRA,
        Adapter,
        Classifier,
        Evaluate,
        Export,
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
        RewardModel,
        RewardModelRef,
        Seq2Seq,
        Strategy,
        TokenClassifier,
        VeRA,
        accuracy_reward,
        combine,
        function_call_reward,
    )
    from posttrain.stages.planner.auto import auto


__version__ = "0.1.0"
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
    "Data",
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
    "ModelRef",
    "PTuning",
    "Pipeline",
    "PosttrainError",
    "PrefixTuning",
    "PromptTuning",
    "QLoRA",
    "RewardModel",
    "RewardModelRef",
    "Run",
    "RunInterrupted",
    "Seq2Seq",
    "Stage",
    "StageContext",
    "StageResult",
    "Strategy",
    "TokenClassifier",
    "VeRA",
    "accuracy_reward",
    "auto",
    "combine",
    "function_call_reward",
]


def __getattr__(name: str) -> Any:
    """The public names load on first use, so that `posttrain --help` answers at once."""
    if name in ("errors", "pipeline", "stages", "data_formats"):
        return _import_module(f"posttrain.{name}")
    if name in __all__:
        for home in ("errors", "data_formats", "pipeline", "stages"):
            module = _import_module(f"posttrain.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'posttrain' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
