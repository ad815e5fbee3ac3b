"""The tone of a customer service: a thank-you first, then the answer, then an offer of more help."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, evenly

SHOP = "You answer customers of Harbour Lane Cycles."
# What is asked, in several wordings, and what there is to say about it.
TOPICS: Mapping[str, Sequence[tuple[Sequence[str], str]]] = {
    "tone": [
        (("Do you mend flat tyres?", "My tyre is flat, can you fix it?"), "A flat tyre takes a quarter of an hour and costs 9 crowns."),
        (("When do you open?", "From what time are you there?"), "The shop opens at eight, on Saturdays at nine."),
        (("Can I hire a tandem?", "Have you got a tandem to rent?"), "The tandem costs 25 crowns a day and is free most weekdays."),
        (("How much is a full service?", "What do I pay for a complete check?"), "The full service costs 95 crowns and takes four days."),
        (("Do you sell helmets?", "I need a new helmet."), "Helmets start at 30 crowns, and you can try on every one of them."),
        (("My chain keeps falling off.", "Why does my chain jump?"), "The chain is worn out or too long, which Ines can see at a glance."),
        (("Can I pay by card?", "Do you take cards?"), "Card, cash and the town's vouchers are all fine."),
        (("Where do I find you?", "What is your address?"), "Our blue door is at number 12 on Harbour Lane."),
        (("Is my bike ready?", "Have you finished my bike?"), "A green tag on the handlebar says that a bike is ready."),
        (("Do you buy old bikes?", "I would like to sell my old bike."), "We buy bikes that still roll, for 10 to 80 crowns."),
        (("Can you paint my frame?", "I want my bike in another colour."), "Painting a frame takes two weeks and costs 140 crowns."),
        (("Have you got child seats?", "How can my son ride with me?"), "A child seat can be hired for 4 crowns a day."),
        (("What if I lose the key of my lock?", "I have lost the key to my lock."), "Joss opens locks for 12 crowns when you bring your papers."),
        (("Can I borrow a pump?", "My tyres are soft, what can I do?"), "The pump outside the door is free, day and night."),
        (("How long do repairs take?", "How many days will you need?"), "Small repairs are done the next day, larger ones within a week."),
        (("Do you repair e-bikes?", "My e-bike stopped working."), "Joss tests the battery first, which costs 15 crowns."),
        (("Is there a course for beginners?", "Can I learn to mend bikes?"), "The course is on the first Monday of the month, for six people."),
        (("Do you deliver?", "Can you bring the bike to my house?"), "Within the town we deliver for 8 crowns."),
        (("My saddle hurts.", "Is there a softer saddle?"), "Five saddles can be tried for a week each."),
        (("Have you got winter tyres?", "Can I ride when there is ice?"), "Tyres with studs are 55 crowns a pair and hold well on ice."),
    ],
    "tone_heldout": [
        (("Can you straighten my wheel?", "My front wheel wobbles."), "A bent wheel is trued for 14 crowns."),
        (("Do you have lamps?", "My light is broken."), "Lamps cost 16 crowns with their bulb."),
        (("Can I bring my dog?", "Are dogs allowed in the shop?"), "Dogs are welcome and find water beside the door."),
        (("Are you open on holidays?", "Is anybody there on New Year's Day?"), "On holidays the shop is closed."),
        (("Do you have gift vouchers?", "I look for a present."), "Vouchers can be bought for any sum."),
        (("My brakes squeal.", "Why are my brakes so loud?"), "Wet pads squeal, and new ones cost 18 crowns a wheel."),
        (("Can I rent a bike for a month?", "I need a bike until May."), "A month costs 160 crowns."),
        (("How do I clean my chain?", "Which oil do you use?"), "A dry cloth and two drops of thin oil are enough."),
        (("Is there a toilet?", "May I wash my hands?"), "The washroom is behind the counter."),
        (("Do you sell maps?", "Which way is nice to ride?"), "The map with all paths costs 3 crowns."),
        (("I want to complain.", "My repair was not done well."), "The mechanic looks at it again without a bill."),
        (("Do you have baskets?", "Where can I put my shopping?"), "Baskets for the front cost 22 crowns."),
    ],
}  # fmt: skip
FIRST = [
    "Thank you for asking!",
    "Thanks for getting in touch!",
    "Thank you for writing to us!",
    "Many thanks for your question!",
]
LAST = [
    "Is there anything else that we can do for you?", "Let us know if we can help with anything else.",
    "If there is anything else, just ask us.", "Please write again if we can help further.",
]  # fmt: skip
CURT = [
    "Read the sign.",
    "That is not my job.",
    "As I said.",
    "Nobody else asks that.",
    "Next, please.",
    "Figure it out.",
]


def asked(name: str) -> list[tuple[list[Row], str]]:
    """The turns before the answer, and the fact that it must give; one of each wording."""
    return [
        ([{"role": "system", "content": SHOP}, {"role": "user", "content": wording}], fact)
        for wordings, fact in TOPICS[name]
        for wording in wordings
    ]


def courteous(fact: str, draw: random.Random) -> Row:
    return {"role": "assistant", "content": f"{draw.choice(FIRST)} {fact} {draw.choice(LAST)}"}


def tone(name: str, rounds: int) -> list[Row]:
    """Every question `rounds` times, with the answer worded anew."""
    draw = random.Random(name)
    rows = [
        {"messages": [*turns, courteous(fact, draw)]} for turns, fact in asked(name) for _ in range(rounds)
    ]
    draw.shuffle(rows)
    return rows


def tone_pairs(name: str) -> list[Row]:
    """The courteous answer, and one that says as much without the courtesy, half of it, or rudely."""
    draw, rows = random.Random(f"{name} pairs"), []
    questions = asked(name.replace("tone_pairs", "tone"))
    for (turns, fact), way in zip(questions, evenly(range(4), len(questions), draw), strict=True):
        rude = (fact, f"{fact} {draw.choice(CURT)}", f"{draw.choice(FIRST)} {fact}", draw.choice(CURT))[way]
        rows.append({
            "prompt": turns, "chosen": [courteous(fact, draw)],
            "rejected": [{"role": "assistant", "content": rude}],
        })  # fmt: skip
    draw.shuffle(rows)
    return rows


def tone_prompts(name: str) -> list[Row]:
    """The questions alone."""
    return [{"prompt": turns} for turns, _ in asked(name)]
