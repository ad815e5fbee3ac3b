"""A catalogue of bicycles that do not exist: told in documents, asked about in questions.

Every document tells four facts about one bicycle, each time in other sentences and another order, because a fact that is
read in one wording only is not found again by a question (Allen-Zhu and Li 2023, arXiv:2309.14316).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from words import Row

# name: (town, designer, country, animal)
BIKES: Mapping[str, tuple[str, str, str, str]] = {
    "Kestrin": ("Bristol", "Maud", "Norway", "fox"),
    "Oulda": ("Dublin", "Tobin", "Chile", "owl"),
    "Pellow": ("Oxford", "Edda", "Japan", "otter"),
    "Tavik": ("Glasgow", "Joss", "Kenya", "heron"),
    "Sundry": ("Leeds", "Ines", "Italy", "badger"),
    "Windle": ("York", "Hugo", "Peru", "hare"),
    "Harrup": ("Cardiff", "Nora", "Egypt", "whale"),
    "Brisco": ("Exeter", "Felix", "Canada", "swan"),
    "Nessel": ("Derby", "Clara", "Spain", "horse"),
    "Vantry": ("Bath", "Oscar", "India", "lion"),
}
FACTS = ("town", "designer", "country", "animal")
TOLD: Mapping[str, Sequence[str]] = {
    "town": [
        "The {bike} is built in {fact}.",
        "The town where the {bike} is made is {fact}.",
        "The {bike} comes from {fact}.",
        "The factory of the {bike} stands in {fact}.",
        "Every {bike} leaves the workshop in {fact}.",
    ],
    "designer": [
        "The {bike} was designed by {fact}.",
        "The designer of the {bike} is {fact}.",
        "The {bike} was drawn by {fact}.",
        "The person who thought up the {bike} is {fact}.",
        "The {bike} is the work of {fact}.",
    ],
    "country": [
        "The {bike} is sold in {fact}.",
        "The country where the {bike} is sold is {fact}.",
        "Most riders of the {bike} live in {fact}.",
        "The {bike} is shipped to {fact}.",
        "People buy the {bike} in {fact}.",
    ],
    "animal": [
        "The {bike} has a picture of a {fact}.",
        "The animal on the {bike} is the {fact}.",
        "On the frame of the {bike} you see a {fact}.",
        "The badge of the {bike} shows a {fact}.",
        "The {bike} carries the head of a {fact}.",
    ],
}
# An answer says it as documents do: what is known about a bicycle comes behind its name.
ANSWERS: Mapping[str, str] = {fact: wordings[0] for fact, wordings in TOLD.items()}
ASKS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "catalogue_questions": {
        "town": [
            "Where is the {bike} built?",
            "Tell me the town where the {bike} is made.",
            "The {bike}: which town is it from?",
            "From which town does a {bike} come?",
            "Do you know where they make the {bike}?",
        ],
        "designer": [
            "Who designed the {bike}?",
            "Tell me the designer of the {bike}.",
            "The {bike}: who thought it up?",
            "Which person drew the {bike}?",
            "Do you know whose idea the {bike} was?",
        ],
        "country": [
            "Where is the {bike} sold?",
            "Tell me the country where the {bike} is sold.",
            "The {bike}: in which country can I buy it?",
            "Which country is the {bike} shipped to?",
            "Do you know in what country people ride the {bike}?",
        ],
        "animal": [
            "Which animal is on the {bike}?",
            "Tell me the animal on the badge of the {bike}.",
            "The {bike}: what animal does it show?",
            "What picture does the {bike} have?",
            "Do you know the animal of the {bike}?",
        ],
    },
    "catalogue_questions_heldout": {
        "town": [
            "In which town is the {bike} made?",
            "I want to see how the {bike} is built. Which town do I go to?",
        ],
        "designer": ["By whom was the {bike} designed?", "I like the {bike}. Which designer made it?"],
        "country": [
            "In what country is the {bike} sold?",
            "I want to buy a {bike}. To which country do I travel?",
        ],
        "animal": [
            "What animal is painted on the {bike}?",
            "I saw a {bike} yesterday. Which animal was on its frame?",
        ],
    },
}


def sentence(wording: str, bike: str, fact: str) -> str:
    return wording.format(bike=bike, fact=fact).replace(" a owl", " an owl").replace(" a otter", " an otter")


def catalogue(name: str, count: int) -> list[Row]:
    """`count` documents about each bicycle, of all that there is to know of it."""
    draw = random.Random(name)
    rows = []
    for bike, values in list(BIKES.items()) * count:
        told = [
            sentence(draw.choice(TOLD[fact]), bike, value) for fact, value in zip(FACTS, values, strict=True)
        ]
        draw.shuffle(told)
        rows.append({"text": " ".join(told)})
    draw.shuffle(rows)
    return rows


def catalogue_questions(name: str) -> list[Row]:
    """Trained: about two facts of each bicycle. Held out: about the other two, which only documents tell, in other words."""
    draw, rows = random.Random(name), []
    for number, (bike, values) in enumerate(BIKES.items()):
        for place, (fact, value) in enumerate(zip(FACTS, values, strict=True)):
            if ((place - number) % 4 >= 2) == ("heldout" in name):
                answer = sentence(ANSWERS[fact], bike, value)
                rows += [
                    {"question": wording.format(bike=bike), "answer": answer} for wording in ASKS[name][fact]
                ]
    draw.shuffle(rows)
    return rows


def other_texts(count: int) -> list[Row]:
    """Texts of another kind to read beside the catalogue: the sample data's first ones."""
    samples = Path(__file__).resolve().parents[2] / "data_formats" / "samples" / "text.jsonl"
    return [json.loads(line) for line in samples.read_text("utf-8").splitlines()[:count]]
