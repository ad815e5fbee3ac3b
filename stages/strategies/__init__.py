"""PEFT strategies: each a small frozen object that says what is trained and how."""

from .adalora import AdaLoRA
from .bottleneck import Adapter
from .freeze import Freeze
from .full import Full
from .lora import LoRA, LoRAGA, QLoRA
from .products import LoHa, LoKr
from .prompts import PrefixTuning, PromptTuning, PTuning
from .rotations import BOFT, OFT
from .small import IA3, LNTuning, VeRA
from .strategy import Capabilities, Schedule, StartRows, StepHooks, Strategy, Task
from .unfreeze import GradualUnfreeze

SHIPPED = (
    Full, Freeze, GradualUnfreeze, LoRA, LoRAGA, QLoRA, AdaLoRA, LoHa, LoKr, IA3, VeRA, LNTuning, OFT, BOFT, Adapter,
    PromptTuning, PrefixTuning, PTuning,
)  # fmt: skip

__all__ = [
    "BOFT",
    "IA3",
    "OFT",
    "SHIPPED",
    "AdaLoRA",
    "Adapter",
    "Capabilities",
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
    "Schedule",
    "StartRows",
    "StepHooks",
    "Strategy",
    "Task",
    "VeRA",
]
