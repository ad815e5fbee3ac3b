"""Write the data of the recipes into recipes/data: made of word lists and wordings, the same bytes every time.

python scripts/make_recipe_data.py [FOLDER]

All rows are about Harbour Lane Cycles, the invented workshop of the sample data. Each list below has two parts: what is
trained on, and what is held out. No held-out row is worded as a trained one; what else is new in it, its recipe says.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Words = Mapping[str, Sequence[str]]

# --- extraction: who, what, when -----------------------------------------------------------------------------

EXTRACTION: Mapping[str, Words] = {
    "extraction": {
        "wording": [
            "{customer} ordered a {part} and collects it on {date}.",
            "Please put a {part} aside for {customer}, who comes by on {date}.",
            "On {date} the bike of {customer} came in, with a bent {part}.",
            "Note for the bench: the {part} for {customer} arrives on {date}.",
            "We promised a new {part} to {customer} by {date}.",
            "{date}: paid in full, one {part}, by {customer}.",
            "The {part} that {customer} asked about is in stock again.",
            "{customer} rang twice about the {part}.",
            "Has anybody seen the {part} that came in on {date}?",
            "From {date} on the {part} costs two crowns more.",
            "{customer} is away until {date}, so there is no hurry.",
            "Send the bill for the {part} to {customer}, it is due on {date}.",
            "Could you fit a {part} before {date}? Yours, {customer}",
            "The parcel with the {part} went to {customer} by mistake.",
            "Nobody has paid for the {part} since {date}.",
            "Thank {customer} for the cake, and say that the bike is ready on {date}.",
        ],
        "customer": [
            "Ada Brandt", "Tomas Ekele", "Wilma Sund", "Oskar Tveit", "Nadia Rahm", "Peter Lowe", "Greta Holm",
            "Samir Haddad", "Lotte Vink", "Hugo Arden", "Mina Castell", "Rolf Begley", "Vera Nox", "Caleb Stone",
            "Irma Falk", "Jonas Reed", "Dora Quill", "Edwin Marsh", "Yara Benali", "Felix Toft", "Agnes Moor",
            "Bruno Sala", "Kirsten Dahl", "Leo Winter",
        ],
        "part": [
            "brake cable", "rear rack", "saddle", "front light", "chain guard", "bottle cage", "pump", "mudguard",
            "derailleur", "wheel rim", "pedal", "bell", "seat post", "handlebar", "gear lever", "kickstand", "tyre",
            "child seat", "crank arm", "spoke key",
        ],
        "date": [f"{day} {month}" for day in (1, 2, 4, 5, 7, 9, 11, 12, 14, 16, 18, 21, 23, 25, 27)
                 for month in ("January", "February", "March", "April", "May", "June", "July", "August")],
    },
    "extraction_heldout": {
        "wording": [
            "A {part} is waiting here for {customer} until {date}.",
            "{customer} would like the {part} back by {date}.",
            "Remind me on {date} to order another {part} for {customer}.",
            "Is the {part} of {customer} finished?",
            "Stocktaking on {date}: one {part} too many.",
            "I met {customer} at the ferry, and we agreed on {date}.",
            "It was {customer} who found the missing {part} on {date}.",
            "Before {date} we cannot get a {part}.",
        ],
        "customer": ["Selma Thorne", "Ivar Klee", "Paula Jensen", "Dmitri Orlo", "Rosa Whitby", "Anton Gale",
                     "Hanne Berg", "Mateo Cruz", "Olive Trent", "Karim Said"],
        "part": ["bar tape", "dynamo", "jockey wheel", "basket", "toe clip", "bearing set", "reflector", "hub",
                 "fork", "valve cap"],
        "date": [f"{day} {month}" for day in (3, 8, 13, 17, 22, 28) for month in ("September", "October", "November")],
    },
}  # fmt: skip


def filled(wording: str, words: Words, draw: random.Random) -> tuple[str, list[Row]]:
    """The wording with words in its places, and where each stands."""
    text, spans = "", []
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", wording):
        text += literal
        if slot:
            word = draw.choice(words[slot])
            spans.append({"start": len(text), "end": len(text) + len(word), "label": slot})
            text += word
    return text, spans


def extraction(name: str, count: int) -> list[Row]:
    """Sentences of the workshop's notebook, with the spans that they name."""
    words, draw = EXTRACTION[name], random.Random(name)
    return [
        dict(zip(("text", "spans"), filled(wording, words, draw), strict=True))
        for wording in evenly(words["wording"], count, draw)
    ]


def evenly(items: Sequence[Any], count: int, draw: random.Random) -> list[Any]:
    """Each item as often as the others, in random order."""
    taken = [items[i % len(items)] for i in range(count)]
    draw.shuffle(taken)
    return taken


# --- the files -------------------------------------------------------------------------------------------------


def files() -> dict[str, list[Row]]:
    """The rows of every file, by its name."""
    return {
        "extraction": extraction("extraction", 128),
        "extraction_heldout": extraction("extraction_heldout", 24),
    }


def write(folder: Path) -> None:
    """One JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")


if __name__ == "__main__":
    write(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "recipes" / "data"
    )
