"""The health of a stage that learns from its own answers: what moved, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# In the order of the panel; a metric that was not measured is left out.
PANEL = (
    "reward", "judge", "kl", "entropy", "clip_fraction", "ratio", "explained_variance", "value_loss", "length",
    "stopped", "reward_length_correlation", "repetition",
)  # fmt: skip
_PHASES = ("rollout", "scoring", "update")


def health_of(history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """{"panel": the metrics that were measured, "seconds": {phase: sum}}; None of a stage that samples no answers."""
    if not history or "kl_per_token" not in history[0]:
        return None
    panel = [name for name in PANEL if any(line.get(name) is not None for line in history)]
    seconds = {phase: sum(line.get(f"seconds_{phase}") or 0.0 for line in history) for phase in _PHASES}
    return {"panel": panel, "seconds": seconds if any(seconds.values()) else {}}
