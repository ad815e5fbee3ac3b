"""A stage's rows as token tables, made once per content and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import CorruptArtifactError, EmptyStageDataError

from ..data_formats import Examples, Kind, Source, digest, hold_out, read_examples, sample
from ..pipeline.cache import cache_folder
from ..pipeline.digests import digest_of
from ..pipeline.durable import commit_folder, read_json, set_aside, verify_folder, write_json

if TYPE_CHECKING:
    from ..data_formats import DataReport, Encoded, TokenTable


@dataclass(frozen=True)
class Tables:
    """What a stage trains on, and what it is measured on."""

    train: TokenTable
    held_out: TokenTable | None
    report: DataReport
    held_out_report: DataReport | None
    key: str

    def as_dict(self) -> dict[str, Any]:
        """The stage's account of its data, for the run folder."""
        return {
            **self.report.as_dict(),
            "rows_held_out": len(self.held_out) if self.held_out else 0,
            "held_out": self.held_out_report.as_dict() if self.held_out_report else None,
            "table": self.key,
        }


@dataclass(frozen=True)
class Request:
    """Everything that decides the content of the tables."""

    data: Source | None  # None: the packaged sample
    eval_data: Source | None
    kind: Kind
    max_length: int
    overlong: str

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
    if (kept := _read(folder, key)) is not None:
        return kept
    from ..data_formats import encode

    examples = read_examples(request.source, request.kind)
    if request.eval_source is None:
        examples, held = hold_out(examples)
    else:
        held = read_examples(request.eval_source, request.kind)
    options: dict[str, Any] = {"max_length": request.max_length, "overlong": request.overlong}
    train = encode(examples, tokenizer, **options)
    rest = _encode_held_out(held, tokenizer, request.max_length)

    def fill(aside: Path) -> None:
        (aside / "train").mkdir()
        train.table.save(aside / "train")
        if rest:
            (aside / "held_out").mkdir()
            rest.table.save(aside / "held_out")
        reports = {"train": train.report.as_dict(), "held_out": rest.report.as_dict() if rest else None}
        write_json(aside / "report.json", reports)

    commit_folder(folder, fill)
    return Tables(train.table, rest.table if rest else None, train.report, rest.report if rest else None, key)


def _encode_held_out(held: Examples, tokenizer: Any, max_length: int) -> Encoded | None:
    """Held-out rows must not stop a run for being long: what does not fit is dropped and counted."""
    from ..data_formats import encode

    try:
        return encode(held, tokenizer, max_length=max_length, overlong="drop") if held.examples else None
    except EmptyStageDataError:
        return None


def _read(folder: Path, key: str) -> Tables | None:
    from ..data_formats import DataReport, TokenTable

    if not folder.is_dir():
        return None
    try:
        verify_folder(folder)
    except CorruptArtifactError:
        set_aside(folder)  # a cache entry: made again from the rows
        return None
    reports = read_json(folder / "report.json")
    held = reports["held_out"]
    return Tables(
        train=TokenTable.load(folder / "train"),
        held_out=TokenTable.load(folder / "held_out") if held else None,
        report=DataReport.from_dict(reports["train"]),
        held_out_report=DataReport.from_dict(held) if held else None,
        key=key,
    )


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """A change in how we read or mask rows must make new tables."""
    import posttrain.data_formats as package

    folder = Path(next(iter(package.__path__)))
    return digest_of([[path.name, path.read_text("utf-8")] for path in sorted(folder.glob("*.py"))])
