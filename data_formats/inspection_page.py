"""An inspection in words, and as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping

from .examples import Kind
from .inspection import Inspection, Lengths, Tokens

TAKEN_BY: Mapping[Kind, str] = {  # the stages
    "text": "CPT",
    "conversation": "SFT",
    "preference": "RewardModel, DPO, ORPO",
    "unpaired": "KTO",
    "prompt": "PPO, GRPO, RLOO",
    "labelled": "Classifier",
    "tagged": "TokenClassifier",
}
ROLES = (
    "text",
    "prompt",
    "system",
    "user",
    "assistant",
    "tool",
    "completion",
    "answer",
    "chosen",
    "rejected",
)
_LANGUAGES = {"Hiragana": "ja", "Katakana": "ja", "Hangul": "ko", "CJK": "zh"}  # the first that occurs


VERDICTS = (  # the sentence that matters most; its numbers are put in by their places
    '{0} of {1} rows is bad: training stops there, or leaves it out with Data(..., on_bad_rows="quarantine").',
    '{0} of {1} rows are bad: training stops there, or leaves them out with Data(..., on_bad_rows="quarantine").',
    "Training stops at this file.",
    "The only row is good.",
    "All {0} rows are good.",
    "The only row is good, but it is longer than max_length={0}.",
    "All {0} rows are good, but {1} is longer than max_length={2}.",
    "All {0} rows are good, but {1} are longer than max_length={2}.",
)
_BAD, _BADS, _STOPS, _ONE, _ALL, _ONE_LONG, _ALL_ONE_LONG, _ALL_LONG = VERDICTS


def verdict_words(found: Inspection) -> tuple[str, list[str]]:
    """(one of VERDICTS, the numbers in it)."""
    rows = f"{found.rows:,}"
    if found.bad_rows:
        return _BAD if found.bad_rows == 1 else _BADS, [f"{found.bad_rows:,}", rows]
    if found.refusals:
        return _STOPS, []
    if found.tokens is None or not found.tokens.overlong:
        return (_ONE, []) if found.rows == 1 else (_ALL, [rows])
    report = found.tokens.report
    if found.rows == 1:
        return _ONE_LONG, [str(report.max_length)]
    long = _ALL_ONE_LONG if report.overlong_rows == 1 else _ALL_LONG
    return long, [rows, f"{report.overlong_rows:,}", str(report.max_length)]


def verdict(found: Inspection) -> str:
    """The sentence that matters most."""
    words, numbers = verdict_words(found)
    return words.format(*numbers)


def figures(found: Inspection) -> list[tuple[str, str]]:
    """(name, value) of what is known about the file as a whole."""
    takers = f", for {TAKEN_BY[found.kind]}" if found.kind in TAKEN_BY else ""
    reasons = ", ".join(f"{kind} {number:,}" for kind, number in found.bad_kinds.items())
    pairs = [("chosen = rejected", _count(found.identical_pairs, "such a pair teaches nothing"))]
    scripts = ", ".join(f"{name} {share:.0%}" for name, share in found.scripts.items() if share >= 0.005)
    return [
        ("kind", f"{found.kind}{takers}"),
        ("format", f"{found.format}, because {found.why}"),
        ("rows", f"{found.rows:,}"),
        ("bad rows", _count(found.bad_rows, reasons)),
        ("duplicates", _count(found.duplicates, "each says what an earlier row says")),
        *(pairs if found.kind == "preference" else []),
        *([("scripts", scripts)] if scripts else []),
        *(("note", note) for note in found.notes),
        *(("training stops", refusal) for refusal in found.refusals),
    ]


def _count(number: int, meaning: str) -> str:
    return f"{number:,}: {meaning}" if number else "none"


def lengths(found: Inspection) -> list[tuple[str, Lengths]]:
    """(of what, how long)."""
    turns = [("messages of a dialogue", found.turns)] if found.turns else []
    roles = [role for role in ROLES if role in found.characters]
    return turns + [(f"characters of {role}", found.characters[role]) for role in roles]


def token_lines(tokens: Tokens) -> list[str]:
    """The report behind its first line, which `figures` says."""
    return tokens.report.lines()[1:] + ([f"training stops: {tokens.overlong}"] if tokens.overlong else [])


def visible(text: str) -> str:
    """Without control characters, so that no text moves a cursor or turns the direction of writing."""
    return text.translate(_PICTURES)


_PICTURES = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) != "\n"}
    | {code: f"\\x{code:02x}" for code in range(0x7F, 0xA0)}
    | {
        code: f"\\u{code:04x}"
        for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
    }
)


def as_page(found: Inspection) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def shown(text: str) -> Markup:
        """A newline can be seen, and is not copied with the text."""
        return escape(visible(text)).replace("\n", Markup('<span class="newline">↵</span>\n'))

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"number": "{:,}".format, "shown": shown, "visible": visible}
    most = max((rows for _, _, rows in found.tokens.histogram), default=1) if found.tokens else 1
    return page.from_string(_PAGE).render(
        found=found, verdict=verdict(found), figures=figures(found), lengths=lengths(found), most=most,
        token_lines=token_lines, language=_language(found), style=Markup(_STYLE),
    )  # fmt: skip


def _language(found: Inspection) -> str:
    """The same characters are drawn in another way in Chinese, Japanese and Korean."""
    return next((language for script, language in _LANGUAGES.items() if script in found.scripts), "")


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --faint: #5f6872; --line: #dde1e6; --soft: #f5f7f9;
  --trained: #c9f0d3; --trained-ink: #0b3d1c; --bar: #2f7fd1; --over: #b35f0b; --good: #17803d; --bad: #c02b2b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --faint: #98a1ab; --line: #31373d;
  --soft: #1c2024; --trained: #17492a; --trained-ink: #d3f8de; --bar: #4b96e6; --over: #e09a4d; --good: #4cc877;
  --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
:lang(zh) { font-family: system-ui, -apple-system, "PingFang SC", "Noto Sans CJK SC", "Noto Sans SC",
  "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .4rem; }
h3 small, .faint { color: var(--faint); font-weight: normal; }
h4 { font-size: .8rem; margin: .6rem 0 .2rem; color: var(--faint); font-weight: 600; }
.verdict { margin: 0 0 1rem; font-weight: 600; color: var(--good); }
.verdict.bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
.figures th { width: 10rem; font-weight: 500; color: var(--faint); }
th { overflow-wrap: normal; }
.lengths td, .lengths thead th + th { text-align: right; font-variant-numeric: tabular-nums; }
.lengths tbody th { font-weight: 400; }
ul, ol { padding-left: 1.2rem; margin: .25rem 0; }
li { margin: .15rem 0; }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .75rem; align-items: center;
  font-variant-numeric: tabular-nums; font-size: .9rem; }
.bars span:first-child, .label { text-align: right; color: var(--faint); }
.bar { display: flex; align-items: center; gap: .5rem; }
.bar i { display: block; height: 1.05rem; min-width: 2px; background: var(--bar); border-radius: 0 2px 2px 0; }
.bar.over i { background: var(--over); }
.limit { grid-column: 1 / -1; border-top: 2px dashed var(--over); color: var(--over); font-size: .85rem; }
.row { white-space: pre-wrap; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem .75rem; font-size: .92rem; color: var(--faint); line-break: auto; word-break: normal; }
.row mark, .key { background: var(--trained); color: var(--trained-ink); border-radius: 2px;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.newline { opacity: .55; user-select: none; -webkit-user-select: none; }
@media (max-width: 34rem) { body { padding: 1rem .75rem 3rem; } .figures th { width: 6.5rem; }
  h1 { font-size: 1.1rem; } th, td { padding-right: .5rem; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ found.source | visible }}: {{ found.rows | number }} rows</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ found.source | visible }}</h1>
<p class="verdict{{ '' if found.good else ' bad' }}">{{ verdict | visible }}</p>
<table class="figures">
{% for name, value in figures %}
<tr><th scope="row">{{ name }}</th><td>{{ value | visible }}</td></tr>
{% endfor %}
</table>
{% if found.characters %}

<h2>Lengths</h2>
<table class="lengths">
<thead><tr><th></th><th scope="col">half up to</th><th scope="col">95 % up to</th><th scope="col">longest</th></tr></thead>
<tbody>
{% for name, of in lengths %}
<tr><th scope="row">{{ name }}</th><td>{{ of.half | number }}</td><td>{{ of.most | number }}</td><td>{{ of.longest | number }}</td></tr>
{% endfor %}
</tbody>
</table>
{% endif %}
{% if found.bad_lines %}

<h2>Bad rows</h2>
<ul{% if language %} lang="{{ language }}"{% endif %}>
{% for line in found.bad_lines %}
<li>{{ line | visible }}</li>
{% endfor %}
</ul>
{% if found.bad_rows > found.bad_lines | length %}
<p class="faint">... and {{ (found.bad_rows - found.bad_lines | length) | number }} more</p>
{% endif %}
{% endif %}
{% if found.tokens %}

<h2>Tokens</h2>
<ul>
{% for line in token_lines(found.tokens) %}
<li>{{ line | visible }}</li>
{% endfor %}
</ul>

<h2>Rows by their length in tokens</h2>
{% set limit = found.tokens.report.max_length %}
{% set drawn = namespace(yet=false) %}
<div class="bars">
{% for low, high, rows in found.tokens.histogram %}
{% if low > limit and not drawn.yet %}
{% set drawn.yet = true %}
<div class="limit">max_length {{ limit | number }}</div>
{% endif %}
<div class="label">{{ low | number }}{% if low < high %}&ndash;{{ high | number }}{% endif %}</div>
<div class="bar{{ ' over' if low > limit else '' }}">{% if rows %}<i style="width: {{ (85 * rows / most) | round(2) }}%"></i>{% endif %}{{ rows | number }}</div>
{% endfor %}
{% if not drawn.yet %}
<div class="limit">max_length {{ limit | number }}</div>
{% endif %}
</div>
{% if found.tokens.previews %}

<h2>The first rows that fit</h2>
<p class="faint"><span class="key">trained</span>, not trained; ↵ is a newline</p>
{% for preview in found.tokens.previews %}
<h3>{{ preview.place | visible }} <small>{{ preview.tokens | number }} tokens, {{ preview.trained | number }} of them trained</small></h3>
{% for name, pieces in preview.parts %}
{% if name %}
<h4>{{ name }}</h4>
{% endif %}
<div class="row"{% if language %} lang="{{ language }}"{% endif %}>
{%- for text, trained in pieces -%}
{% if trained %}<mark>{{ text | shown }}</mark>{% else %}{{ text | shown }}{% endif %}
{%- endfor -%}
</div>
{% endfor %}
{% endfor %}
{% endif %}
{% endif %}
</body>
</html>
"""
