"""The contract of stages, and the pipeline that runs them: knows no stage by name."""

from .interrupt import StopRequest
from .interval import Interval
from .model_ref import AdapterRef, ModelRef
from .pipeline import Pipeline
from .ranks import Ranks
from .run import Run, StageRecord
from .settings import CheckedSettings, Setting
from .stage import Stage, StageContext, StagePlan, StageResult

__all__ = [
    "AdapterRef",
    "CheckedSettings",
    "Interval",
    "ModelRef",
    "Pipeline",
    "Ranks",
    "Run",
    "Setting",
    "Stage",
    "StageContext",
    "StagePlan",
    "StageRecord",
    "StageResult",
    "StopRequest",
]
