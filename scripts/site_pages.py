"""A hook of mkdocs: README, results and scripts stand outside docs/, and the pages link to them there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Where a file of the repository stands in the site, which has docs/ at its top.
PLACES = {"README.md": "index.md", "README.zh-CN.md": "zh/index.md"}
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """With every file that a page links to and that stands outside docs/."""
    texts = {f"docs/{file.src_uri}": Path(file.abs_src_path) for file in files.documentation_pages()}
    texts |= {source: ROOT / source for source in (*PLACES, "benchmarks/RESULTS.md")}
    linked = {
        _target(source, link[0])
        for source, path in texts.items()
        for link in _LINK.findall(path.read_text("utf-8"))
    }
    for source in sorted({*texts, *linked}):
        if not source.startswith("docs/") and (ROOT / source).is_file():
            place = PLACES.get(source, source)
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """With links as the site has its pages."""
    here = page.file.src_uri
    source = next((source for source, place in PLACES.items() if place == here), None)
    source = source or (here if (ROOT / here).is_file() else f"docs/{here}")

    def moved(found: re.Match[str]) -> str:
        target = _target(source, found[1])
        place = PLACES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return _LINK.sub(moved, markdown)


def _target(source: str, link: str) -> str:
    """The file of the repository that a link in `source` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
