"""LoRA's settings as the field advises them, by purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.errors import SettingError

_ANY_BASE: Mapping[str, Mapping[str, Any]] = {
    "classification": {
        "r": 8,
        "alpha": 32,
        "dropout": 0.05,
        "target_modules": ("query", "value"),
    },  # BERT-like
    "instruction": {"r": 4, "alpha": 16, "dropout": 0.05, "target_modules": ("q_proj", "k_proj", "v_proj")},
    "tiny": {
        "r": 2,
        "alpha": 8,
        "dropout": 0.1,
        "target_modules": ("q_proj",),
        "layers_to_transform": (-2, -1),
    },
}
# A card of so much memory, and the model that fits: 7B, 13B, 30B.
_FOUR_BIT_BASE: Mapping[str, Mapping[str, Any]] = {
    "8GB": {"r": 4, "alpha": 16, "dropout": 0.05},
    "12GB": {"r": 8, "alpha": 32, "dropout": 0.05},
    "24GB": {"r": 16, "alpha": 32, "dropout": 0.05},
}


def settings_of(owner: str, name: str, *, four_bit: bool) -> Mapping[str, Any]:
    """The settings of a preset. Raises SettingError for a name that is none, or that needs a 4-bit base."""
    if name in _FOUR_BIT_BASE and not four_bit:
        raise SettingError(
            f"{owner}.preset({name!r}) holds with a 4-bit base only; take QLoRA.preset({name!r})."
        )
    known = {**_ANY_BASE, **(_FOUR_BIT_BASE if four_bit else {})}
    if name not in known:
        raise SettingError(f"{owner}.preset({name!r}): there is {', '.join(map(repr, known))}.")
    return known[name]
