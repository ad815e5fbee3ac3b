"""PEFT strategies: each a small frozen object that says what is trained and how."""

from .full import Full
from .lora import LoRA, QLoRA
from .strategy import Capabilities, Strategy, Task, capability_table

SHIPPED = (Full, LoRA, QLoRA)

__all__ = ["SHIPPED", "Capabilities", "Full", "LoRA", "QLoRA", "Strategy", "Task", "capability_table"]
