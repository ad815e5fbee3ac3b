"""Write the data of the recipes into recipes/data: made of word lists and wordings, the same bytes every time.

python scripts/recipe_data [FOLDER]

All rows are about Harbour Lane Cycles, the invented workshop of the sample data. Each list has two parts: what is trained
on, and what is held out. No held-out row is worded as a trained one; what else is new in it, its recipe says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from calls import call_pairs, calls
from catalogue import catalogue, catalogue_questions, other_texts
from classification import classification
from days import days
from extraction import extraction
from tone import tone, tone_pairs, tone_prompts
from translation import translation
from words import Row


def files() -> dict[str, list[Row]]:
    """The rows of every file, by its name."""
    return {
        "extraction": extraction("extraction", 128),
        "extraction_heldout": extraction("extraction_heldout", 24),
        "classification": classification("classification", 48),
        "classification_heldout": classification("classification_heldout", 16),
        "calls": calls("calls", 100),
        "calls_heldout": calls("calls_heldout", 24),
        "call_pairs": call_pairs("call_pairs", 40),
        "call_pairs_heldout": call_pairs("call_pairs_heldout", 16),
        "catalogue": catalogue("catalogue", 24),
        "catalogue_heldout": catalogue("catalogue_heldout", 2),
        "catalogue_questions": catalogue_questions("catalogue_questions"),
        "catalogue_questions_heldout": catalogue_questions("catalogue_questions_heldout"),
        "other_texts": other_texts(60),
        "days": days("days", 8),
        "days_heldout": days("days_heldout", 3),
        "tone": tone("tone", 3),
        "tone_heldout": tone("tone_heldout", 1),
        "tone_pairs": tone_pairs("tone_pairs"),
        "tone_pairs_heldout": tone_pairs("tone_pairs_heldout"),
        "tone_prompts_heldout": tone_prompts("tone_heldout"),
        "translation": translation("translation", 200),
        "translation_heldout": translation("translation_heldout", 40),
    }


def write(folder: Path) -> None:
    """One JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")


if __name__ == "__main__":
    write(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "recipes" / "data"
    )
