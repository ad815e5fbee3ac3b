"""PEFT strategies: each a small frozen object that says what is trained and how."""

from .adalora import AdaLoRA
from .freeze import Freeze
from .full import Full
from .lora import LoRA, LoRAGA, QLoRA
from .small import IA3, OFT, VeRA
from .strategy import Capabilities, Schedule, StartRows, StepHooks, Strategy, Task, capability_table
from .unfreeze import GradualUnfreeze

SHIPPED = (Full, Freeze, GradualUnfreeze, LoRA, LoRAGA, QLoRA, AdaLoRA, IA3, VeRA, OFT)

__all__ = [
    "IA3",
    "OFT",
    "SHIPPED",
    "AdaLoRA",
    "Capabilities",
    "Freeze",
    "Full",
    "GradualUnfreeze",
    "LoRA",
    "LoRAGA",
    "QLoRA",
    "Schedule",
    "StartRows",
    "StepHooks",
    "Strategy",
    "Task",
    "VeRA",
    "capability_table",
]
