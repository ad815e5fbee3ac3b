"""The recipes' data are made by the script in the repository, and nothing held out was trained on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, FOLDER = ROOT / "scripts" / "make_recipe_data.py", ROOT / "recipes" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


def both(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return rows(name), rows(f"{name}_heldout")


def test_the_script_makes_the_packaged_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert len(made) == 2


def spans(listed: list[dict[str, Any]]) -> set[str]:
    return {row["text"][span["start"] : span["end"]] for row in listed for span in row["spans"]}


def test_extraction_holds_out_names_parts_and_dates() -> None:
    trained, held_out = both("extraction")
    assert len(spans(trained)) > 60 and len(spans(held_out)) > 20
    assert not spans(trained) & spans(held_out)
    without = {tuple(_blanked(row)) for row in trained} & {tuple(_blanked(row)) for row in held_out}
    assert not without  # no wording is in both


def _blanked(row: dict[str, Any]) -> list[str]:
    """The sentence without what it names."""
    parts, at = [], 0
    for span in row["spans"]:
        parts.append(row["text"][at : span["start"]])
        at = span["end"]
    return [*parts, row["text"][at:]]
