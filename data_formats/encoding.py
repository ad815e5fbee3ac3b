"""From examples to a token table and the report that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from posttrain.errors import EmptyStageDataError, SettingError

from .encoders import ENCODERS, Work
from .examples import WAYS, Examples, Kind, Overlong
from .report import DataReport, Tally, percentile
from .table import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    table: TokenTable
    report: DataReport


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int, overlong: Overlong
) -> Encoded:
    """Render every example once, find and prove what is trained, and fit the rows into max_length.

    Raises DataError: OverlongError, RowError, or EmptyStageDataError when no row is left.
    """
    encoded = _encode(examples, tokenizer, max_length, overlong)
    if not len(encoded.table):
        reasons = encoded.report.reasons() or "no row was read"
        raise EmptyStageDataError(
            f"{examples.source}: nothing is left to train on ({reasons}); check the data and max_length={max_length}."
        )
    return encoded


def encode_held_out(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int, overlong: Overlong
) -> Encoded:
    """As `encode`, for rows that are only measured: too long a row is dropped and counted where training would
    stop, and none may be left.
    """
    return _encode(examples, tokenizer, max_length, "drop" if overlong == "error" else overlong)


def _encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: Overlong
) -> Encoded:
    _check_settings(examples.kind, max_length, overlong)
    tally = Tally()
    table = ENCODERS[examples.kind](Work(tokenizer, max_length, overlong, tally), examples.examples)
    return Encoded(table, _report(examples, table, tally, max_length))


def _check_settings(kind: Kind, max_length: int, overlong: Overlong) -> None:
    if max_length < 2:
        raise SettingError(f"max_length must be at least 2 tokens, not {max_length}.")
    if overlong not in get_args(Overlong):
        raise SettingError(f"overlong must be one of {', '.join(get_args(Overlong))}, not '{overlong}'.")
    if overlong not in WAYS[kind]:
        raise SettingError(
            f"overlong='{overlong}' does not work here; rows of kind {kind} can be met with {', '.join(WAYS[kind])}."
        )


def _report(examples: Examples, table: TokenTable, tally: Tally, max_length: int) -> DataReport:
    return DataReport(
        source=examples.source,
        format=examples.detection.format,
        why=examples.detection.why,
        rows_read=len(examples),
        rows_kept=len(table),
        rows_cut=tally.cut,
        rows_dropped=tally.dropped.total(),
        dropped_reasons=dict(tally.dropped),
        tokens=table.tokens,
        trained_tokens=table.trained_tokens,
        length_p50=percentile(tally.lengths, 0.5),
        length_p95=percentile(tally.lengths, 0.95),
        length_max=max(tally.lengths, default=0),
        max_length=max_length,
        overlong_rows=sum(length > max_length for length in tally.lengths),
        smallest_max_length_that_fits=max(tally.lengths, default=0),
        stop_tokens_lost=tally.stop_tokens_lost,
        injected_text=tally.injected_text or "",
        identical_pairs=tally.identical_pairs,
        length_bias=tally.longer_chosen / max(1, len(tally.lengths)),
        notes=(*examples.notes, *tally.notes()),
    )
