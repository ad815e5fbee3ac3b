"""One object from raw text to an aligned model: `Pipeline([SFT(lora), DPO(lora)]).run()`."""

from pathlib import Path as _Path

# A wheel holds the folders pipeline/, stages/, ... inside this one; a checkout holds them beside it.
if not (_Path(__file__).parent / "stages").is_dir():
    __path__.append(str(_Path(__file__).parents[1]))

from posttrain.data_formats import Data
from posttrain.errors import PosttrainError, RunInterrupted
from posttrain.pipeline import ModelRef, Pipeline, Run, Stage, StageContext, StageResult
from posttrain.pipeline.watching import add_watcher as _add_watcher
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
    AdaLoRA,
    Adapter,
    Classifier,
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
    auto,
)


def _report(run_dir: _Path) -> None:
    from posttrain.report import write_report

    write_report(run_dir)


_add_watcher(_report)

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
    "AdaLoRA",
    "Adapter",
    "Classifier",
    "Data",
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
    "auto",
]
