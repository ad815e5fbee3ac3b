"""A stage's rows as token tables, made once per content and kept on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data_formats import Data, DataFormat, Kind, Overlong, Source, sample
from ..pipeline.cache import cache_folder, keep_folder, remembered_sha256
from ..pipeline.digests import digest_of, digest_of_code
from ..pipeline.durable import read_json, write_json
from ..pipeline.heads import LABELS, Labels
from .replay import with_replay

if TYPE_CHECKING:
    from ..data_formats import DataReport, Question, TokenTable


@dataclass(frozen=True)
class Tables:
    """What a stage trains on, and what it is measured on."""

    train: TokenTable
    held_out: TokenTable | None  # None: no row was held out, or none of them fits
    report: DataReport  # of the rows that are trained on
    held_out_report: DataReport | None  # None: no row was held out
    split_off: bool  # the held-out rows come from the same file
    key: str
    questions: tuple[Question, ...] = ()  # what the model is asked before and after training
    labels: Labels | None = None  # the names of the classes, of rows for a head
    bad_rows: tuple[Path, ...] = ()  # the files of the rows that were put into quarantine
    from_cache: bool = False
    replayed: int = 0  # rows of earlier stages among the trained ones

    @property
    def rows_read(self) -> int:
        """All rows of `data`, trained on or held out."""
        held = self.held_out_report.rows_read if self.held_out_report and self.split_off else 0
        return self.report.rows_read + held

    def lines(self) -> list[str]:
        """The account in plain sentences."""
        return self.report.lines() + (self.held_out_report.held_out_lines() if self.held_out_report else [])

    @property
    def origin(self) -> str:
        """Whether rows were read just now, in a few words."""
        found = "found in the cache, the data is unchanged" if self.from_cache else "made"
        return f"token table {self.key[:8]} {found}"

    def as_dict(self) -> dict[str, Any]:
        """The stage's account of its data, for the run folder: `data`'s rows, and under "held_out" the others'."""
        return {
            **self.report.as_dict(),
            "rows_read": self.rows_read,
            "rows_held_out": len(self.held_out) if self.held_out else 0,
            **({"rows_replayed": self.replayed} if self.replayed else {}),
            "held_out": self.held_out_report.as_dict() if self.held_out_report else None,
            "lines": self.lines(),
            "table": self.key,
            "origin": self.origin,
        }


@dataclass(frozen=True)
class Request:
    """Everything that decides the content of the tables."""

    data: Source | Data | None  # None: the packaged sample
    eval_data: Source | Data | None
    kind: Kind
    max_length: int
    overlong: Overlong
    replay: tuple[Request, ...] = ()  # whose rows are mixed into the trained ones
    replay_share: float = 0.0  # of the rows trained on

    @property
    def source(self) -> Data:
        return Data.of(sample(self.kind) if self.data is None else self.data)

    @property
    def eval_source(self) -> Data | None:
        """The held-out rows' own file; None splits them off."""
        if self.eval_data is not None:
            return Data.of(self.eval_data)
        return Data.of(sample(self.kind, held_out=True)) if self.data is None else None

    @property
    def formats(self) -> list[DataFormat]:
        """Those that were given as objects, which nobody may have registered."""
        sources = [self.source, *([self.eval_source] if self.eval_source else [])]
        parts = [part for source in sources for part in source.parts()]
        return [part.format for part in parts if isinstance(part.format, DataFormat)]

    def identity(self) -> Mapping[str, Any]:
        """Content addresses of both sources and of our own code, and the options. Needs no torch."""
        return {
            "data": self.source.identity(remembered_sha256),
            "eval_data": None if self.eval_source is None else self.eval_source.identity(remembered_sha256),
            "kind": self.kind,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "code": _code_digest(),
            **self._replay_identity(),
        }

    def _replay_identity(self) -> Mapping[str, Any]:
        if not self.replay:
            return {}
        return {"replay": [one.identity() for one in self.replay], "replay_share": self.replay_share}


def load_tables(request: Request, tokenizer: Callable[[], Any], tokenizer_fingerprint: str) -> Tables:
    """The tables from the cache, or read, validated, rendered, encoded and kept.

    tokenizer: loads it, which takes seconds; called where a table has to be made.

    Raises DataError for whatever is wrong with the rows.
    """
    key = digest_of([request.identity(), tokenizer_fingerprint])
    if request.replay:
        alone = replace(request, replay=(), replay_share=0.0)
        own, *earlier = (
            load_tables(one, tokenizer, tokenizer_fingerprint) for one in (alone, *request.replay)
        )
        return with_replay(own, earlier, request.replay_share, key)
    folder = cache_folder() / "tables" / key[:32]
    made = keep_folder(folder, lambda aside: _make(request, tokenizer(), aside))
    return _read(folder, key, split_off=request.eval_source is None, from_cache=not made)


def _make(request: Request, tokenizer: Any, target: Path) -> None:
    """Read both sources and write a table and a report for each part that has rows."""
    from ..data_formats import Limits, encode_data

    limits = Limits(request.max_length, request.overlong)
    parts = encode_data(request.source, request.eval_source, request.kind, tokenizer, limits, target)
    for raw in ("raw", "eval_raw"):
        shutil.rmtree(target / raw, ignore_errors=True)
    write_json(target / "report.json", {name: part.report.as_dict() for name, part in parts.items()})
    asked = [question.as_dict() for part in parts.values() for question in part.questions]
    write_json(target / "questions.json", asked)


def _read(folder: Path, key: str, *, split_off: bool, from_cache: bool) -> Tables:
    from ..data_formats import DataReport, Question, TokenTable

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
        questions=tuple(Question(**question) for question in read_json(folder / "questions.json")),
        labels=Labels.read(folder) if (folder / LABELS).is_file() else None,
        bad_rows=tuple(sorted(folder.glob("*bad_rows.jsonl"))),  # of eval_data: eval_bad_rows.jsonl
        from_cache=from_cache,
    )


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """A change in how we read or mask rows must make new tables."""
    import posttrain.data_formats

    return digest_of_code(posttrain.data_formats)
