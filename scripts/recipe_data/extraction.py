"""Who, what, when: sentences of the notebook, and where they name it."""

from __future__ import annotations

import random
from collections.abc import Mapping

from words import Row, Words, evenly, filled

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


def extraction(name: str, count: int) -> list[Row]:
    """Sentences of the workshop's notebook, with the spans that they name."""
    words, draw = EXTRACTION[name], random.Random(name)
    return [
        dict(zip(("text", "spans"), filled(wording, words, draw), strict=True))
        for wording in evenly(words["wording"], count, draw)
    ]
