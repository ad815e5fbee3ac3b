"""What a stage costs before it runs: sizes counted without weights, memory in parts, what fits, and auto(memory)."""

from .auto import Auto, auto
from .plan import plan_stage, tables_of, wants_checkpointing

__all__ = ["Auto", "auto", "plan_stage", "tables_of", "wants_checkpointing"]
