"""What a stage's `data` can say beyond naming a file: format, columns, system prompt, limits, and mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from posttrain.errors import SettingError

from .format import DataFormat
from .readers.file_types import suffix_of
from .readers.sources import digest, name_of

# Annotated, so that what reads recipes from files can tell a source of rows from any other value.
DataSource = Annotated[Any, "whatever Data(source) takes, or a Data"]
OnBadRows = Literal["error", "quarantine"]
Interleave = Literal["first_exhausted", "all_exhausted"]


@dataclass(frozen=True)
class Data:
    """Where rows come from and how they are read.

        Data("faq.csv", format="qa", columns={"question": "Frage", "answer": "Antwort"}, limit=1000)
        Data(["chat.jsonl", Data("zh.json", system="请用中文回答。")], weights=[0.8, 0.2])

    source: a file, a folder, rows in memory, a datasets.Dataset, a Hub id; or a list of files and Data.
    format: the name of a format or of its family, or a format with settings; None detects it.
    columns: {the format's column: the file's column}.
    limit: how many rows are read, from the first on.
    system: the system prompt of dialogues that have none.
    on_bad_rows: "error" stops and lists them, "quarantine" leaves them out, counts them and writes bad_rows.jsonl.
    weights: of a list, the share of the trained rows that comes from each. None: every row once.
    interleave: with weights, "first_exhausted" uses no row twice, "all_exhausted" repeats rows until each was used.

    Raises SettingError for settings that contradict each other.
    """

    source: DataSource
    format: str | DataFormat | None = field(default=None, kw_only=True)
    columns: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    system: str | None = field(default=None, kw_only=True)
    on_bad_rows: OnBadRows = field(default="error", kw_only=True)
    weights: Sequence[float] | None = field(default=None, kw_only=True)
    interleave: Interleave | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.limit is not None and (isinstance(self.limit, bool) or not isinstance(self.limit, int)):
            raise SettingError(f"Data(limit={self.limit!r}): limit must be a whole number of rows.")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"Data(limit={self.limit}): limit must be at least 1.")
        if self.on_bad_rows not in ("error", "quarantine"):
            raise SettingError(
                f"Data(on_bad_rows={self.on_bad_rows!r}): on_bad_rows must be 'error' or 'quarantine'."
            )
        if self.interleave not in (None, "first_exhausted", "all_exhausted"):
            raise SettingError(
                f"Data(interleave={self.interleave!r}): interleave must be 'first_exhausted' or 'all_exhausted'."
            )
        if self.format is not None and (not isinstance(self.format, (str, DataFormat)) or not self.format):
            raise SettingError(f"Data(format={self.format!r}): format must be a name or a data format.")
        if self.system is not None and (not isinstance(self.system, str) or not self.system.strip()):
            raise SettingError(f"Data(system={self.system!r}): system must be a text that is not empty.")
        if isinstance(self.source, str) and not self.source:
            raise SettingError("Data(''): the name of the file is empty.")
        self._check_columns()
        if is_mixture(self.source):
            self._check_mixture()
        elif self.weights is not None or self.interleave is not None:
            raise SettingError(
                "Data(weights=..., interleave=...): these mix a list of sources; there is one."
            )

    def _check_columns(self) -> None:
        if not isinstance(self.columns, Mapping) or not all(
            isinstance(name, str) for pair in self.columns.items() for name in pair
        ):
            raise SettingError('Data(columns=...): columns must be a dict such as {"question": "Frage"}.')
        theirs = list(self.columns.values())
        for name in theirs:
            if theirs.count(name) > 1:
                raise SettingError(f"Data(columns=...): '{name}' is named twice; a column has one meaning.")

    def _check_mixture(self) -> None:
        for name in ("format", "columns", "limit", "system"):
            if getattr(self, name):
                raise SettingError(
                    f"Data([...], {name}=...): a setting of one source; put it into that source's own Data(...)."
                )
        if any(isinstance(one, Data) and is_mixture(one.source) for one in self.source):
            raise SettingError("Data([...]): a mixture cannot hold another one; list all sources in one.")
        if self.weights is None:
            return
        if not isinstance(self.weights, (list, tuple)) or not all(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) for weight in self.weights
        ):
            raise SettingError(f"Data(weights={self.weights!r}): weights must be a list of numbers.")
        if len(self.weights) != len(self.source):
            raise SettingError(
                f"Data(weights=...): {len(self.weights)} weights for {len(self.source)} sources; give one for each."
            )
        if not all(isfinite(weight) and weight > 0 for weight in self.weights):
            raise SettingError(f"Data(weights={list(self.weights)}): weights must be positive numbers.")

    @classmethod
    def of(cls, source: Any) -> Data:
        return source if isinstance(source, Data) else cls(source)

    def parts(self) -> tuple[Data, ...]:
        """The single sources; what a mixture does with bad rows, its parts do."""
        if not is_mixture(self.source):
            return (self,)
        parts = tuple(Data.of(one) for one in self.source)
        if self.on_bad_rows == "error":
            return parts
        return tuple(replace(part, on_bad_rows=self.on_bad_rows) for part in parts)

    def shares(self) -> tuple[float, ...] | None:
        """Of the trained rows, for each part; None where every row is used once."""
        if self.weights is None and self.interleave is None:
            return None
        weights = self.weights or [1.0] * len(self.source)
        return tuple(weight / sum(weights) for weight in weights)

    def identity(self, of_file: Callable[[Path], str] | None = None) -> Any:
        """Content addresses and settings, as JSON: what decides the examples. of_file: the sha256 of a file."""
        if is_mixture(self.source):
            shares = self.shares()
            mixed = {"shares": shares and list(shares), "interleave": self.interleave or "first_exhausted"}
            return [*(part.identity(of_file) for part in self.parts()), *([mixed] if shares else [])]
        settings: dict[str, Any] = {"columns": dict(self.columns), "limit": self.limit, "system": self.system}
        if self.format is not None:
            settings["format"] = (
                self.format if isinstance(self.format, str) else [self.format.name, dict(self.format.options)]
            )
        if self.on_bad_rows != "error":
            settings["on_bad_rows"] = self.on_bad_rows
        given = {name: value for name, value in settings.items() if value}
        content = digest(self.source, of_file)
        if isinstance(self.source, (str, Path)) and Path(self.source).is_file():
            content += suffix_of(Path(self.source))  # the same bytes are other rows as .txt than as .jsonl
        return {"source": content, **given} if given else content

    def __str__(self) -> str:
        if is_mixture(self.source):
            return ", ".join(map(str, self.parts()))
        return name_of(self.source)


def is_mixture(source: Any) -> bool:
    """A list of sources, where a list of rows is one source."""
    return isinstance(source, (list, tuple)) and bool(source) and isinstance(source[0], (str, Path, Data))


def described(source: Any) -> str:
    """Data for people: names, numbers of rows, and what was set."""
    data = Data.of(source)
    if is_mixture(data.source):
        shares = data.shares() or [None] * len(data.source)
        named = [
            described(one) + (f" {share:.0%}" if share else "")
            for one, share in zip(data.source, shares, strict=True)
        ]
        return " + ".join(named)
    rows = data.source
    count = f"{len(rows)} rows" if isinstance(rows, Sized) else "rows"
    name = str(rows) if isinstance(rows, (str, Path)) else f"{count} in memory"
    given = {
        key: getattr(data, key) for key in ("format", "columns", "limit", "system") if getattr(data, key)
    }
    if isinstance(data.format, DataFormat):
        given["format"] = data.format.name
    return name + (f" ({', '.join(f'{key}={value!r}' for key, value in given.items())})" if given else "")
