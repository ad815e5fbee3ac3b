"""A stage's rows as token tables, made once per content and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data_formats import Kind, Overlong, Source, digest, hold_out, read_examples, sample
from ..pipeline.cache import cache_folder, keep_folder
from ..pipeline.digests import digest_of
from ..pipeline.durable import read_json, write_json

if TYPE_CHECKING:
    from ..data_formats import DataReport, TokenTable


@dataclass(frozen=True)
class Tables:
    """What a stage trains on, and what it is measured on."""

    train: TokenTable
    held_out: TokenTable | None  # None: no row was held out, or none of them fits
    report: DataReport  # of the rows that are trained on
    held_out_report: DataReport | None  # None: no row was held out
    split_off: bool  # the held-out rows come from the same file
    key: str

    @property
    def rows_read(self) -> int:
        """All rows of `data`, trained on or held out."""
        held = self.held_out_report.rows_read if self.held_out_report and self.split_off else 0
        return self.report.rows_read + held

    def lines(self) -> list[str]:
        """The account in plain sentences."""
        return self.report.lines() + (self.held_out_report.held_out_lines() if self.held_out_report else [])

    def as_dict(self) -> dict[str, Any]:
        """The stage's account of its data, for the run folder: `data`'s rows, and under "held_out" the others'."""
        return {
            **self.report.as_dict(),
            "rows_read": self.rows_read,
            "rows_held_out": len(self.held_out) if self.held_out else 0,
            "held_out": self.held_out_report.as_dict() if self.held_out_report else None,
            "lines": self.lines(),
            "table": self.key,
        }


@dataclass(frozen=True)
class Request:
    """Everything that decides the content of the tables."""

    data: Source | None  # None: the packaged sample
    eval_data: Source | None
    kind: Kind
    max_length: int
    overlong: Overlong

    @property
    def source(self) -> Source:
        return sample(self.kind) if self.data is None else self.data

    @property
    def eval_source(self) -> Source | None:
        """The held-out rows' own file; None splits them off."""
        return (
            sample(self.kind, held_out=True)
            if self.data is None and self.eval_data is None
            else self.eval_data
        )

    def identity(self) -> Mapping[str, Any]:
        """Content addresses of both sources and of our own code, and the options. Needs no torch."""
        return {
            "data": digest(self.source),
            "eval_data": None if self.eval_source is None else digest(self.eval_source),
            "kind": self.kind,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "code": _code_digest(),
        }


def load_tables(request: Request, tokenizer: Any, tokenizer_fingerprint: str) -> Tables:
    """The tables from the cache, or read, validated, rendered, encoded and kept.

    Raises DataError for whatever is wrong with the rows.
    """
    key = digest_of([request.identity(), tokenizer_fingerprint])
    folder = cache_folder() / "tables" / key[:32]
    keep_folder(folder, lambda aside: _make(request, tokenizer, aside))
    return _read(folder, key, split_off=request.eval_source is None)


def _make(request: Request, tokenizer: Any, target: Path) -> None:
    """Read both sources and write a table and a report for each part that has rows."""
    from ..data_formats import encode, encode_held_out

    examples = read_examples(request.source, request.kind)
    if request.eval_source is None:
        examples, held = hold_out(examples)
    else:
        held = read_examples(request.eval_source, request.kind)
    options: dict[str, Any] = {"max_length": request.max_length, "overlong": request.overlong}
    parts = {"train": encode(examples, tokenizer, **options)}
    if len(held):
        parts["held_out"] = encode_held_out(held, tokenizer, **options)
    for name, part in parts.items():
        if len(part.table):
            (target / name).mkdir()
            part.table.save(target / name)
    write_json(target / "report.json", {name: part.report.as_dict() for name, part in parts.items()})


def _read(folder: Path, key: str, *, split_off: bool) -> Tables:
    from ..data_formats import DataReport, TokenTable

    reports = {
        name: DataReport.from_dict(report) for name, report in read_json(folder / "report.json").items()
    }
    held_out = reports.get("held_out")
    return Tables(
        train=TokenTable.load(folder / "train"),
        held_out=TokenTable.load(folder / "held_out") if held_out and held_out.rows_kept else None,
        report=reports["train"],
        held_out_report=held_out,
        split_off=split_off,
        key=key,
    )


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """A change in how we read or mask rows must make new tables."""
    import posttrain.data_formats as package

    folder = Path(next(iter(package.__path__)))
    return digest_of([[path.name, path.read_text("utf-8")] for path in sorted(folder.glob("*.py"))])
