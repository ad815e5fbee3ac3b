"""PEFT strategies: each a small frozen object that says what is trained and how."""

from .freeze import Freeze
from .full import Full
from .lora import LoRA, QLoRA
from .small import IA3, OFT, VeRA
from .strategy import Capabilities, Strategy, Task, capability_table

SHIPPED = (Full, Freeze, LoRA, QLoRA, IA3, VeRA, OFT)

__all__ = [
    "IA3",
    "OFT",
    "SHIPPED",
    "Capabilities",
    "Freeze",
    "Full",
    "LoRA",
    "QLoRA",
    "Strategy",
    "Task",
    "VeRA",
    "capability_table",
]
