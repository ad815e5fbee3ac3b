"""The classes of rows for a head: their names, which travel with the token table, and how often each occurs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.errors import EmptyStageDataError, SettingError

from .. import fields
from ..format import DataFormat
from .tagging import tag_names

if TYPE_CHECKING:
    from .table import TokenTable

LABELS = "labels.json"


@dataclass(frozen=True)
class Classes:
    """labels: as the format has them. names: of the classes that a head tells apart, in the order of their numbers."""

    labels: Sequence[str]
    names: Sequence[str]
    several: bool

    @classmethod
    def of(cls, format_: DataFormat) -> Classes:
        """Of a format that was prepared. Raises SettingError when it does not say its labels."""
        labels = format_.options.get("labels")
        if not isinstance(labels, (list, tuple)) or not labels:
            raise SettingError(
                f"Data format '{format_.name}' of kind '{format_.kind}' must say its labels in options[\"labels\"]; let "
                "its prepare put them there."
            )
        tagged = format_.kind == "tagged"
        return cls(labels, tag_names(labels) if tagged else labels, bool(format_.options.get("several")))

    def write(self, folder: Path) -> None:
        value = {"names": list(self.names), "several": self.several}
        (folder / LABELS).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

    def notes(self, table: TokenTable, source: str) -> list[str]:
        """How often each label is trained. Raises EmptyStageDataError when there is nothing to tell apart."""
        import numpy as np

        if "classes" in table.columns:
            counts, what = np.bincount(table.columns["classes"].values, minlength=len(self.labels)), "rows"
        else:
            tags = table.columns["labels"].values
            counts, what = np.bincount(tags[tags > 0], minlength=len(self.names))[1::2], "spans"
        seen = dict(zip(self.labels, counts.tolist(), strict=True))
        found = [label for label, count in seen.items() if count]
        if not found or (len(found) == 1 and what == "rows" and not self.several):
            said = f"all have the label {found[0]!r}" if found else "none has a label"
            raise EmptyStageDataError(
                f"{source}: of the {len(table)} rows to train on {said}, so there is nothing to tell apart; add rows with "
                "other labels."
            )
        lines = [f"{what} by label: " + fields.listed(f"{label} {count}" for label, count in seen.items())]
        if missing := [label for label in self.labels if not seen[label]]:
            lines.append(
                f"labels without any of the {what} to train on, so they will not be learned: {fields.listed(missing)}"
            )
        return lines
