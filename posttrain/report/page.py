"""The report as one HTML page: it loads nothing, and runs only the two scripts whose hashes it names.

Whatever a user, a file or a model wrote reaches it as text: escaped by the template, or as JSON that a script reads.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data_formats.inspection_page import visible
from posttrain.errors import ConfigurationError

from .graph import graph_of, lineage
from .health import PANEL
from .metric_words import zh_name
from .words import TIMELINE, TITLES, ZH

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Live:
    """What a server adds to the page, so that it follows the run. The texts are trusted, and escaped by who made them."""

    bar: Markup | str = ""  # above the report; holds LANGUAGE
    style: str = ""
    scripts: tuple[str, ...] = ()  # behind the report's own; they may ask the server


LANGUAGE = """<button id="language" type="button" hidden><span class="en" lang="zh-Hans">简体中文</span><span class="zh" lang="en">English</span></button>"""


def as_page(report: Mapping[str, Any], live: Live | None = None) -> str:
    """`report` is what `read_report` gives. Without `live` the page asks nobody for anything."""
    from markupsafe import Markup

    live = live or Live()
    style, scripts = report_style() + live.style, (*report_scripts(), *live.scripts)
    allowed = " ".join(map(_hash, scripts))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; base-uri 'none'; form-action 'none'"
    if live.scripts:
        policy += "; connect-src 'self'"
    return _template().render(
        report=report,
        live=live,
        language=Markup(LANGUAGE),
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(as_data(report)),
        charts=_charts(report["curves"], {one["name"]: one["type"] for one in report["stages"]}),
        ends=lambda metric, stage: _ends(report["curves"], metric, stage),
        graph=graph_of(report["stages"]),
        lineage=lambda stage: lineage(report, stage),
        thinned=any(len(curve["steps"]) < curve["of"] for curve in report["curves"]),
        common=[one for one in report["answers"] if len(one["answers"]) > 1],
        alone=[one for one in report["answers"] if len(one["answers"]) == 1],
    )


def as_data(value: Any) -> str:
    """JSON that can stand inside a script element: no character in it begins or ends anything there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def number(value: Any) -> str:
    """Four digits that count, however large or small."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.4g}"


def in_bytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def in_time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def both(words: str, zh: Mapping[str, str] = ZH) -> Markup:
    """Words of the page in both languages, of which one is shown."""
    return _spans(words, zh[words])


def _spans(en: str, zh: str) -> Markup:
    from markupsafe import Markup

    return Markup('<span class="en">{}</span><span class="zh" lang="zh-Hans">{}</span>').format(en, zh)


def _in_both(en: str, zh: str | None) -> Markup | str:
    return en if zh is None else _spans(en, zh)


def titled(metric: str) -> Markup | str:
    """Of a curve: what every reader knows, or the name that it has in metrics.jsonl."""
    return both(TITLES[metric]) if metric in TITLES else _in_both(metric, zh_name(metric))


def named(name: str) -> Markup | str:
    """A metric or a proof; a name that users gave stays as it is."""
    return _in_both(visible(name.replace("_", " ")), zh_name(name))


def sentence(item: Mapping[str, Any]) -> Markup | str:
    """Of what needs attention; what stages and errors say stays as it was said."""
    if "words" not in item:
        return visible(item["text"])
    values = {key: str(value) for key, value in item["values"].items()}
    if "metric" in values:
        values["metric"] = zh_name(values["metric"]) or values["metric"].replace("_", " ")
    return _in_both(visible(item["text"]), visible(ZH[item["words"]].format(**values)))


def as_text(value: Any) -> str:
    """A setting."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _charts(curves: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> dict[str, list[Any]]:
    """{"first": the metrics of the time line, "more": the others}, each a list of (metric, stage).

    The stage is "" where all share one chart. The losses of different types of stages are different quantities: on one
    scale the smaller ones would be flat.
    """
    stages: dict[str, list[str]] = {}
    for curve in curves:
        stages.setdefault(curve["metric"], []).append(curve["stage"])
    more = [name for name in stages if name not in (*TIMELINE, *PANEL)]
    return {
        "first": [
            (name, stage)
            for name in TIMELINE
            if name in stages
            for stage in (
                stages[name] if name == "loss" and len({types[one] for one in stages[name]}) > 1 else [""]
            )
        ],
        "more": [(name, stages[name][0] if len(stages[name]) == 1 else "") for name in more],
    }


def _ends(curves: Sequence[Mapping[str, Any]], metric: str, only: str) -> str:
    """First and last values in words, for those who do not see the curve."""
    texts = []
    for curve in curves:
        known = [value for value in curve["values"] if value is not None]
        if curve["metric"] == metric and only in ("", curve["stage"]):
            scale = 1e9 if metric == "memory_bytes" else 1
            text = f"{number(known[0] / scale)} → {number(known[-1] / scale)}"
            texts.append(text if only else f"{curve['stage']} {text}")
    return " · ".join(texts)


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "number": number, "bytes": in_bytes, "time": in_time, "text": as_text, "titled": titled, "named": named,
        "sentence": sentence, "visible": visible,
    }  # fmt: skip
    page.globals |= {"_": both, "zh": ZH}
    return page.from_string((_HERE / "page.html").read_text("utf-8"))


@lru_cache(maxsize=1)
def report_scripts() -> tuple[str, str]:
    """uPlot, and what draws with it."""
    return _uplot("uplot.iife.min.js"), (_HERE / "page.js").read_text("utf-8")


@lru_cache(maxsize=1)
def report_style() -> str:
    return _uplot("uplot.min.css") + (_HERE / "page.css").read_text("utf-8")


# Of the files of uPlot 1.6.31 (MIT, Leon Sorokin) as its authors published them on npm. The small package that brings
# them is somebody else's, so they go into a page only if they are the same bytes.
_UPLOT = {
    "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def _uplot(name: str) -> str:
    """A file of uPlot, of a package that is not imported.

    Raises ConfigurationError where the package is missing or the file is not uPlot's.
    """
    spec = importlib.util.find_spec("youplot")
    if spec is None or spec.origin is None:
        raise ConfigurationError("The report's curves need uPlot's files: pip install youplot==1.0.0.")
    content = (Path(spec.origin).parent / "vendor" / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != _UPLOT[name]:
        raise ConfigurationError(
            f"{name} of the package youplot is not uPlot 1.6.31's: pip install --force-reinstall youplot==1.0.0."
        )
    return content.decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
