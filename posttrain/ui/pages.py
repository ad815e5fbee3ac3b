"""The pages as HTML: every style and script stands in the page itself, and a policy allows just those by their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data_formats.inspection_page import visible
from posttrain.report.page import LANGUAGE, Live, as_data, as_page, both, report_style

from .words import ZH

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent / "page"


def render(name: str, data: Any, **values: Any) -> str:
    """A page by its name. data: what its script works on, as JSON."""
    from markupsafe import Markup

    scripts = ("ui.js", "live.js" if name == "empty" else f"{name}.js")
    return (
        _environment()
        .get_template(f"{name}.html")
        .render(
            style=Markup(report_style() + _file("ui.css")),
            data=Markup(as_data(data)),
            scripts=[Markup(_file(file)) for file in scripts],
            place=name,
            **values,
        )
    )


def live_report(report: Mapping[str, Any], row: Mapping[str, Any], stamp: str) -> str:
    """The report as it is written to disk, with a bar above it that follows the run.

    row: as `Runs.row` makes it. stamp: of the folder, from before the report was read.
    """
    from markupsafe import Markup

    bar = Markup(_environment().get_template("run_bar.html").render(row=row, stamp=stamp, place="run"))
    return as_page(report, Live(bar, _file("ui.css"), (_file("ui.js"), _file("live.js"))))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FileSystemLoader(_HERE)
    )  # fmt: skip
    pages.filters["visible"] = visible
    pages.globals |= {
        "_": lambda words: both(words, ZH),
        "language": Markup(LANGUAGE),
        "words": Markup(as_data(ZH)),
    }
    return pages


@lru_cache(maxsize=32)
def _file(name: str) -> str:
    return (_HERE / name).read_text("utf-8")
