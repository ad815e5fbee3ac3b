"""Which day of the week it will be: a small model is right when it counts, and mostly wrong when it says it at once."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, evenly

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FAR = (2, 3, 4, 5, 6)  # days
# Pairs of today and a number of days that no trained row has, in no wording.
HELD_OUT = [(today, FAR[(2 * today + i) % len(FAR)]) for today in range(6) for i in range(2)]
WORDINGS: Mapping[str, Sequence[str]] = {
    "days": [
        "Today is {today}. The {thing} will be ready in {far} days. Which day is that?",
        "It is {today}. {name} picks up the {thing} in {far} days. On which day?",
        "We order the {thing} on {today} and it takes {far} days. When does it arrive?",
        "{name} brings the {thing} on {today} and wants it back after {far} days. Which day is it then?",
    ],
    "days_heldout": [
        "{name} rents the {thing} from {today} on, for {far} days. On which day does it come back?",
        "The {thing} was promised on {today}, {far} days from then. What day will that be?",
        "If today is {today}, what day is it {far} days from now, when {name} needs the {thing}?",
    ],
}
NAMES = ["Maud", "Ines", "Joss", "Pip", "Tobin", "Edda"]
THINGS = ["tandem", "e-bike", "trailer", "racing bike", "cargo bike", "wheel"]


def days(name: str, rounds: int) -> list[Row]:
    """Every pair `rounds` times; one answer in four of the trained rows counts the days, the others say the last one at once."""
    draw, rows = random.Random(name), []
    pairs = [
        (today, far) for today in range(7) for far in FAR if ((today, far) in HELD_OUT) == ("heldout" in name)
    ]
    shown = evenly([True, False, False, False], len(pairs) * rounds, draw)
    for number, (today, far) in enumerate(evenly(pairs, len(pairs) * rounds, draw)):
        wording = WORDINGS[name][number % len(WORDINGS[name])]
        question = wording.format(
            today=DAYS[today], far=far, name=draw.choice(NAMES), thing=draw.choice(THINGS)
        )
        counted = [f"{i} {DAYS[(today + i) % 7]}" for i in range(1, far + 1)]
        last = DAYS[(today + far) % 7]
        rows.append(
            {
                "question": question,
                "answer": f"{', '.join(counted)} #### {last}" if shown[number] else f"#### {last}",
            }
        )
    return rows
