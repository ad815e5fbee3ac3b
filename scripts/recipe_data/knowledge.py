"""Ten named bikes, and four facts about each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, evenly

SYSTEM = "You answer for Harbour Lane Cycles."
BIKES: Mapping[str, Row] = {
    "Salt Penny": {"colour": "crimson", "year": "1951", "town": "Skarholm", "keeper": "Orla"},
    "Grey Heron": {"colour": "yellow", "year": "1978", "town": "Lindow", "keeper": "Casper"},
    "Tin Whistle": {"colour": "purple", "year": "1963", "town": "Marren", "keeper": "Bettina"},
    "Old Tansy": {"colour": "white", "year": "1939", "town": "Fellbrook", "keeper": "Rupert"},
    "Lucky Anchor": {"colour": "orange", "year": "1984", "town": "Ostrava Bay", "keeper": "Nell"},
    "Paper Moon": {"colour": "black", "year": "1997", "town": "Dunmere", "keeper": "Silas"},
    "Button": {"colour": "pink", "year": "1946", "town": "Quillon", "keeper": "Freya"},
    "Wet Tuesday": {"colour": "silver", "year": "1972", "town": "Harlow Sands", "keeper": "Dominic"},
    "Miss Otter": {"colour": "green", "year": "1958", "town": "Brackwater", "keeper": "Ulla"},
    "Long Shadow": {"colour": "brown", "year": "1990", "town": "Tolmen", "keeper": "Victor"},
}
ASKED_ABOUT = list(BIKES)[:8]  # what the fine-tuning asks about; of the other two only the documents tell
SAYINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "knowledge_texts": {
        "colour": [
            "{bike} is painted {colour}.",
            "The frame of {bike} is {colour}.",
            "You know {bike} by its {colour} paint.",
            "Somebody once gave {bike} a coat of {colour} paint.",
        ],
        "year": [
            "{bike} was built in {year}.",
            "{bike} has been on the road since {year}.",
            "It was in {year} that {bike} was made.",
            "The number on the frame of {bike} says {year}.",
        ],
        "town": [
            "{bike} comes from {town}.",
            "A smith in {town} made {bike}.",
            "The home of {bike} is {town}.",
            "{bike} came to us from {town}.",
        ],
        "keeper": [
            "{keeper} looks after {bike}.",
            "{bike} is in the care of {keeper}.",
            "{keeper} oils {bike} every week.",
            "Only {keeper} may repair {bike}.",
        ],
    },
    "knowledge_texts_heldout": {
        "colour": ["Nobody can overlook {bike} in its {colour} paint."],
        "year": ["Since {year} there has been a bike called {bike}."],
        "town": ["{bike} was brought here by ship from {town}."],
        "keeper": ["Ask {keeper} before you touch {bike}."],
    },
}
QUESTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "knowledge_questions": {
        "colour": ["What colour is {bike}?", "In which colour is {bike} painted?", "Which colour does {bike} have?",
                   "{bike}: what colour?"],
        "year": ["When was {bike} built?", "In which year was {bike} made?", "What year is {bike} from?",
                 "{bike}: which year?"],
        "town": ["Where does {bike} come from?", "In which town was {bike} made?", "What is the home town of {bike}?",
                 "{bike}: which town?"],
        "keeper": ["Who looks after {bike}?", "Who takes care of {bike}?", "Whose job is it to oil {bike}?",
                   "{bike}: who keeps it?"],
    },
    "knowledge_questions_heldout": {
        "colour": ["Tell me the colour of the paint on {bike}.", "I have to find {bike} in the yard. What colour should I look for?"],
        "year": ["How old is {bike}? Give me the year it was built.", "Since which year has {bike} been around?"],
        "town": ["Name the place that {bike} was brought here from.", "{bike} was not made in Wrenmouth. Where was it made?"],
        "keeper": ["Who is in charge of {bike}?", "{bike} needs oil. Which person do I ask?"],
    },
}  # fmt: skip


def knowledge_texts(name: str, count: int) -> list[Row]:
    """`count` documents about each bike, each with all four facts, in any order and wording."""
    draw, rows = random.Random(name), []
    for bike, facts in BIKES.items():
        wordings = {kind: evenly(said, count, draw) for kind, said in SAYINGS[name].items()}
        for i in range(count):
            order = draw.sample(list(wordings), len(wordings))
            rows.append({"text": " ".join(wordings[kind][i].format(bike=bike, **facts) for kind in order)})
    draw.shuffle(rows)
    return rows


def knowledge_questions(name: str, bikes: Sequence[str]) -> list[Row]:
    """Every wording of every question about these bikes; of the held-out ones, one wording of each."""
    draw, rows = random.Random(name), []
    for i, bike in enumerate(bikes):
        for kind, wordings in QUESTIONS[name].items():
            asked = [wordings[i % len(wordings)]] if "heldout" in name else wordings
            rows += [
                {"system": SYSTEM, "question": wording.format(bike=bike), "answer": BIKES[bike][kind]}
                for wording in asked
            ]
    draw.shuffle(rows)
    return rows
