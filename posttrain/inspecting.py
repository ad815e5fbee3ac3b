"""`posttrain inspect`: what is in a data file, on the terminal and as a page, and what of it would be trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.commands.output import print_json
from posttrain.data_formats import Data, Kind
from posttrain.data_formats.inspection import KINDS, Inspection, Pieces, Preview, Tokens, inspect
from posttrain.data_formats.inspection_page import (
    as_page,
    figures,
    lengths,
    token_lines,
    verdict,
    verdict_words,
    visible,
)
from posttrain.errors import DiskSpaceError, SettingError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NAMES = 21  # columns for the names of figures
BARS = 100  # a bar is not longer on a wide terminal
EIGHTHS = " ▏▎▍▌▋▊▉"


def inspect_file(
    source: str,
    *,
    model: str | None = None,
    kind: str | None = None,
    format: str | None = None,
    max_length: int | None = None,
    rows: int | None = None,
    page: Path | None = None,
    json: bool = False,
) -> bool:
    """Print what is in a file, and write it as a page; returns whether training takes all of it."""
    from rich.console import Console

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no Chinese is no reason to stop
    console = Console(highlight=False)
    checked = _check(kind, page, model, {"--max-length": max_length, "--rows": rows})
    data = Data(source, format=format)
    if model is None:
        found = inspect(data, checked)
    else:
        found = _with_model(data, checked, model, max_length or 1024, 3 if rows is None else rows)
    if page is not None:
        _write(page, found)
    if json:
        print_json(as_plain(found))
        return found.good
    for line in _report(found, page, console):
        console.print(line, soft_wrap=True)
    return found.good


def as_plain(found: Inspection) -> dict[str, Any]:
    """What `posttrain inspect` says, as JSON. parts of a row: [[name, [[text, whether it is trained]]]]."""
    tokens = found.tokens
    return {
        "source": found.source, "kind": found.kind, "format": found.format, "why": found.why, "rows": found.rows,
        "bad_rows": found.bad_rows, "good": found.good, "verdict": verdict(found),
        "verdict_words": verdict_words(found), "figures": figures(found),
        "lengths": [[name, of.half, of.most, of.longest] for name, of in lengths(found)], "bad_lines": found.bad_lines,
        "tokens": None if tokens is None else {
            "lines": token_lines(tokens), "max_length": tokens.report.max_length, "histogram": tokens.histogram,
            "rows": [
                {"place": row.place, "tokens": row.tokens, "trained": row.trained, "parts": row.parts}
                for row in tokens.previews
            ],
        },
    }  # fmt: skip


def _check(kind: str | None, page: Path | None, model: str | None, of_tokens: dict[str, Any]) -> Kind | None:
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise SettingError(
            f"--html {page}: the page is written over what is there; give a name ending in .html."
        )
    for flag, value in of_tokens.items():
        if model is None and value is not None:
            raise SettingError(f"{flag} is about tokens, so it needs a tokenizer; add --model.")
    if kind is not None and kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SettingError(f"--kind {kind}: there is no such kind.{hint} There are: {', '.join(KINDS)}.")
    return next((one for one in KINDS if one == kind), None)


def _with_model(data: Data, kind: Kind | None, model: str, max_length: int, rows: int) -> Inspection:
    from posttrain.pipeline.base_models import find_base, shared_tokenizer
    from posttrain.pipeline.quiet import quiet_libraries

    with quiet_libraries():
        tokenizer = shared_tokenizer(find_base(model).folder)
        return inspect(data, kind, tokenizer, max_length=max_length, previews=rows)


def _write(page: Path, found: Inspection) -> None:
    from posttrain.pipeline.durable import write_bytes

    try:
        write_bytes(page, as_page(found).encode())
    except DiskSpaceError:
        raise
    except OSError as error:
        raise SettingError(f"--html {page}: it cannot be written ({error.strerror or error}).") from None


def _report(found: Inspection, page: Path | None, console: Console) -> Iterator[Text]:
    """Line by line, folded to the terminal; a pipe gets every line as one."""
    yield _text(found.source, "bold")
    for name, value in figures(found):
        yield from _hanging(f"  {name}".ljust(NAMES), value, console)
    yield from _lengths(found)
    if found.bad_lines:
        yield _text("\nbad rows", "bold")
        for line in found.bad_lines:
            yield from _hanging("  - ", line, console)
        if found.bad_rows > len(found.bad_lines):
            yield _text(f"  ... and {found.bad_rows - len(found.bad_lines):,} more")
    if found.tokens is not None:
        yield from _tokens(found.tokens, console)
    if page is not None:
        yield _text(f"\nwritten as a page: {page}")
    end = _text(f"\n{verdict(found)}", "bold green" if found.good else "bold red")
    yield from _folded(end, console.width, console)


def _lengths(found: Inspection) -> Iterator[Text]:
    width = NAMES + 5
    if found.characters:
        yield _text(f"\n{'lengths':<{width}}{'half up to':>10}  {'95 % up to':>10}  {'longest':>10}", "bold")
    for name, of in lengths(found):
        yield _text(f"  {name:<{width - 2}}{of.half:>10,}  {of.most:>10,}  {of.longest:>10,}")


def _tokens(tokens: Tokens, console: Console) -> Iterator[Text]:
    yield _text("\ntokens", "bold")
    for line in token_lines(tokens):
        yield from _hanging("  - ", line, console)
    yield _text("\nrows by their length in tokens", "bold")
    yield from _bars(tokens, min(console.width, BARS))
    if tokens.previews:
        yield from _legend(console)
    for preview in tokens.previews:
        yield from _preview(preview, console)


def _bars(tokens: Tokens, width: int) -> Iterator[Text]:
    border, bins = tokens.report.max_length, tokens.histogram
    most = max((rows for _, _, rows in bins), default=0)
    labels = [f"{low:,}-{high:,}" if low < high else f"{low:,}" for low, high, _ in bins]
    label_width = max(map(len, labels), default=0) + 2
    room = width - label_width - len(f"{most:,}") - 3
    line = _text(f"  -- max_length {border:,} ".ljust(width, "-"), "yellow")
    drawn = False
    for label, (low, _, rows) in zip(labels, bins, strict=True):
        if low > border and not drawn:
            drawn = True
            yield line
        bar, style = _bar(rows, most, room), "yellow" if low > border else "cyan"
        yield _text(f"{label:>{label_width}} ").append(bar, style).append(f" {rows:,}" if bar else "")
    if not drawn:
        yield line


def _bar(rows: int, most: int, room: int) -> str:
    eighths = max(1, round(8 * room * rows / most)) if rows else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _legend(console: Console) -> Iterator[Text]:
    words = _text("\nthe first rows that fit: ", "bold")
    if _coloured(console):
        words.append("trained", "green").append(", ").append("not trained", "dim")
        words.append("; ↵ is a newline, · a space at a border")
    else:
        words.append("⟦trained⟧, not trained; ↵ is a newline")
    yield from _folded(words, console.width, console)


def _preview(preview: Preview, console: Console) -> Iterator[Text]:
    yield _text(f"\n{preview.place}: {preview.tokens:,} tokens, {preview.trained:,} of them trained", "bold")
    for name, pieces in preview.parts:
        if name:
            yield _text(f"-- {name} --", "bold")
        text = _marked(pieces, _coloured(console))
        if text.plain.endswith("\n"):
            text.right_crop(1)
        yield from _folded(text, console.width, console)


def _marked(pieces: Pieces, coloured: bool) -> Text:
    """Trained text in green, or in brackets where there are no colours."""
    marked = _text("")
    for text, trained in pieces:
        if coloured:
            marked.append(_shown(_dotted(text)), "green" if trained else "dim")
        else:
            marked.append(_shown(f"⟦{text}⟧" if trained else text))
    return marked


def _dotted(text: str) -> str:
    """The spaces at its ends can be seen."""
    body = text.strip(" ")
    begin = text.find(body) if body else len(text)
    return "·" * begin + body + "·" * (len(text) - begin - len(body))


def _shown(text: str) -> str:
    return visible(text).replace("\n", "↵\n")


def _hanging(name: str, value: str, console: Console) -> Iterator[Text]:
    """The value beside its name, and its further lines below its first one."""
    value = value.replace("\n", "↵")
    for i, line in enumerate(_folded(_text(value), console.width - len(name), console)):
        yield _text(" " * len(name) if i else name, "cyan").append_text(line)


def _folded(text: Text, width: int, console: Console) -> Iterator[Text]:
    yield from text.wrap(console, max(20, width)) if console.is_terminal else [text]


def _coloured(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _text(text: str, style: str = "") -> Text:
    """Rich's markup and the terminal's codes in a data file stay text."""
    from rich.text import Text

    return Text().append(visible(text), style)
