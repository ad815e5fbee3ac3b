"""Small word problems whose answer anybody can check, with the way to it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, evenly

# (what is asked, what is computed): places are two numbers, a name, a thing, a price.
Problem = tuple[str, str]
PROBLEMS: Mapping[str, Sequence[Problem]] = {
    "sums": [
        ("{name} has {a} {things} and buys {b} more. How many {things} are there?", "+"),
        ("There are {a} {things} in the cellar and {b} in the window. How many is that together?", "+"),
        ("{a} {things} come on Monday, {b} on Friday. How many came?", "+"),
        ("{name} sold {b} of the {a} {things}. How many are left?", "-"),
        ("Of {a} {things} {b} are broken. How many are whole?", "-"),
        ("We had {a} {things} and gave {b} away. How many do we still have?", "-"),
    ],
    "sums_heldout": [
        ("{name} counts {a} {things} on the shelf and {b} on the floor. How many are there in all?", "+"),
        ("Yesterday {a} {things} were delivered, today {b}. How many were delivered on both days?", "+"),
        ("The box held {a} {things}. {name} took out {b}. How many does it hold now?", "-"),
        ("{a} {things} were ordered and {b} have arrived. How many are missing?", "-"),
    ],
}
NAMES = ["Maud", "Ines", "Joss", "Pip", "Tobin", "Edda"]
THINGS = ["bells", "pumps", "tyres", "lamps", "saddles", "locks", "chains", "helmets"]


def sums(name: str, count: int) -> list[Row]:
    """Questions of numbers below 100, each with the sum and the result behind "####", as GSM8K has them."""
    draw, rows = random.Random(name), []
    for wording, sign in evenly(PROBLEMS[name], count, draw):
        larger, smaller = sorted((draw.randint(11, 60), draw.randint(11, 39)), reverse=True)
        result = larger + smaller if sign == "+" else larger - smaller
        question = wording.format(a=larger, b=smaller, name=draw.choice(NAMES), things=draw.choice(THINGS))
        rows.append({"question": question, "answer": f"{larger} {sign} {smaller} = {result} #### {result}"})
    return rows
