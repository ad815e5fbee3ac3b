"""What became of the rows of one source: every one dropped or cut is counted, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DataReport:
    source: str
    format: str
    why: str  # the format was taken for this reason
    rows_read: int
    rows_kept: int  # rows of the token table; more than were read where rows are split
    rows_cut: int
    rows_dropped: int
    dropped_reasons: Mapping[str, int]
    tokens: int
    trained_tokens: int
    length_p50: (
        int  # lengths are in tokens, before any row was cut; of a pair: the prompt and the longer answer
    )
    length_p95: int
    length_max: int
    max_length: int
    overlong_rows: int
    smallest_max_length_that_fits: int
    stop_tokens_lost: int  # cut rows with an answer that is trained without its stop token
    injected_text: str  # the system prompt that the template adds and the rows do not have
    identical_pairs: int
    length_bias: float  # the share of pairs with the longer answer chosen
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataReport:
        return cls(**{**values, "notes": tuple(values["notes"])})

    def lines(self) -> list[str]:
        """The report in plain sentences."""
        return [
            f"{self.source}: format {self.format}, because {self.why}",
            self._kept(),
            self._tokens(),
            f"lengths: half of the rows have up to {self.length_p50} tokens, 95 % up to {self.length_p95}, the longest {self.length_max}; max_length is {self.max_length}",
            *self._overlong(),
            *self._pairs(),
            *(
                [f"the chat template adds a system prompt: {self.injected_text!r}"]
                if self.injected_text
                else []
            ),
            *self.notes,
        ]

    def held_out_lines(self) -> list[str]:
        """What became of rows that are only measured: shorter, their format and lengths are the training rows'."""
        if not self.rows_kept:
            lost = f"all {self.rows_read} of them were dropped ({self.reasons()})"
            return [f"held out: {lost}, so nothing measures this stage; raise max_length={self.max_length}"]
        return [f"held out: {line}" for line in (self._kept(), *self._overlong())]

    def reasons(self) -> str:
        """Why rows were dropped, with their numbers; empty when none was."""
        return ", ".join(f"{number} {reason}" for reason, number in self.dropped_reasons.items())

    def _kept(self) -> str:
        rows = f"kept {self.rows_kept} of {self.rows_read} rows"
        if self.rows_kept > self.rows_read - self.rows_dropped:
            rows = f"made {self.rows_kept} rows of {self.rows_read}"
        return rows + (
            f", {self.rows_dropped} dropped ({self.reasons()})" if self.rows_dropped else ", none dropped"
        )

    def _tokens(self) -> str:
        if not self.trained_tokens:
            return f"{self.tokens} tokens of prompts; the answers will be the model's own"
        share = self.trained_tokens / self.tokens
        return f"{self.tokens} tokens, {self.trained_tokens} of them trained ({share:.0%})"

    def _overlong(self) -> list[str]:
        if not self.overlong_rows:
            return []
        lost = f", {self.stop_tokens_lost} of them lost a stop token" if self.rows_cut else ""
        return [
            f"{self.overlong_rows} rows are longer than max_length and {self.rows_cut} were cut{lost}; max_length={self.smallest_max_length_that_fits} fits all"
        ]

    def _pairs(self) -> list[str]:
        lines = []
        if self.identical_pairs:
            lines.append(f"{self.identical_pairs} pairs have chosen equal to rejected and teach nothing")
        if self.length_bias:
            lines.append(f"chosen is the longer answer in {self.length_bias:.0%} of the pairs")
        return lines


def percentile(lengths: Sequence[int] | np.ndarray, share: float) -> int:
    """The smallest length that is not passed by `share` of the rows; 0 of none."""
    at = max(0, ceil(share * len(lengths)) - 1)
    if not len(lengths):
        return 0
    if isinstance(lengths, Sequence):
        return int(sorted(lengths)[at])
    import numpy as np  # there is an array, so it is there already

    return int(np.partition(lengths, at)[at])
