"""What a customer's message is about."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from words import Row, Words, filled

CLASSIFICATION: Mapping[str, Mapping[str, Sequence[str]]] = {
    "classification": {
        "repair": [
            "My brakes are worn out and need new pads.",
            "Water got into my e-bike and now it is dead.",
            "Please check why my back wheel wobbles.",
            "I broke a spoke on the way to work.",
            "My {thing} is broken, can you mend it?",
            "The {thing} squeaks all the time. What would it cost to fix?",
            "I need someone to look at my {thing}, it has come loose.",
            "Flat tyre again! Do I need an appointment for {when}?",
            "How long does it take to replace a worn {thing}?",
            "The chain jumps whenever I go uphill, please help.",
            "Could you straighten a bent wheel by {when}?",
            "Something rattles near the {thing} since I fell off.",
            "I'd like to book a full service for {when}.",
            "Can the {thing} be saved, or is it beyond mending?",
        ],
        "rental": [
            "My parents want to borrow two bikes during their holiday.",
            "How do I book a hire bike?",
            "Are child trailers for hire as well?",
            "What must I show you to rent a bike?",
            "Can we rent two bikes for {when}?",
            "What does it cost to hire a tandem for a day?",
            "Is a helmet included when I borrow a bike from you?",
            "How much is the deposit on a hired e-bike?",
            "I want to hire a bike with a child seat on {when}.",
            "Until what time must a borrowed bike be back?",
            "Do you lend out cargo bikes by the hour?",
            "We are four tourists and need bikes to hire for {when}.",
            "Could I keep the rented bike one night longer?",
            "Is there a weekly price for rental bikes?",
            "Have you any bikes left to rent on {when}?",
            "Is the hire of a bike for {when} cheaper than for a whole week?",
        ],
        "purchase": [
            "Do you have gloves in my size, and what do they cost?",
            "I want a helmet for my daughter, which one would you sell me?",
            "Is there a discount if I buy two bikes?",
            "Could you put the green bike aside? I will buy it.",
            "Do you sell a {thing} that fits a touring bike?",
            "I would like to buy a new city bike.",
            "Have you got a second-hand bike for sale under 150 crowns?",
            "What is the price of your best lock?",
            "Please order a {thing} for me, I pay on {when}.",
            "Which of the bikes in the window is the cheapest to buy?",
            "Is the blue {thing} still in stock? I'll take it.",
            "Can I pay for a new bike by card?",
            "I am looking for a {thing} as a birthday present.",
            "Do you have vouchers that I can buy as a gift?",
            "I'd like to buy a spare {thing}, what have you got?",
            "How much do you want for the racing bike in the window?",
        ],
        "complaint": [
            "Your workshop ruined my weekend.",
            "I wrote three times and got no answer.",
            "I was charged for work that you never did.",
            "The bike came back with oil all over it. Awful.",
            "I waited an hour and nobody served me. Never again.",
            "You scratched my frame and did not even say sorry!",
            "The {thing} you sold me fell apart after two days.",
            "Your bill is twice the quote. I am very annoyed.",
            "I am disappointed: the bike was promised for {when} and was not ready.",
            "The man at the counter was rude to my daughter.",
            "This is the third time that the same fault comes back. Unacceptable.",
            "I want my money back, the work was careless.",
            "Nobody answers the phone in your shop, what a shame.",
            "You lost my {thing} and pretend that it never existed.",
            "I have never been treated so badly as in your shop on {when}.",
            "What a mess: you fitted the wrong {thing} and charged me for it.",
            "I came for nothing on {when}, although I had an appointment!",
        ],
        "visit": [
            "Can I walk from the lighthouse to your door?",
            "Is somebody there on Sunday mornings?",
            "On which side of the harbour are you?",
            "How long are you open tonight?",
            "Are you open on {when}?",
            "When do you close on Saturdays?",
            "Where exactly in Wrenmouth is the shop?",
            "Is there somewhere to park near you?",
            "How do I get from the ferry to your door?",
            "Do you close for lunch?",
            "What are your opening hours in winter?",
            "Which bus stops near Harbour Lane?",
            "Is the shop open on public holidays?",
            "At what time does the door open in the morning on {when}?",
            "I come by train on {when}. How do I find your shop?",
            "Is anybody in the shop before nine on {when}?",
            "Until what time can I visit you on {when}?",
            "Are you closed on {when}?",
        ],
    },
    "classification_heldout": {
        "repair": [
            "It makes a grinding noise when I pedal, any idea?",
            "Can you true my back wheel while I wait?",
            "My e-bike will not start any more.",
            "The brake cable snapped this morning.",
            "There is a crack in my {thing}, please take a look.",
            "The brakes hardly grip any more, can you adjust them?",
            "Would you patch an inner tube for me on {when}?",
            "My gears slip and grind. Could Ines fix that?",
            "Please repair the {thing} of my old roadster.",
        ],
        "rental": [
            "Is the tandem free on {when}?",
            "What do you charge per day for a hire bike?",
            "Do I leave my passport with you if I borrow a bike?",
            "Can I pick up a rental bike before eight?",
            "May I borrow a bike over the weekend, and for how much?",
            "We'd like to hire e-bikes for my family on {when}.",
            "What happens if I bring a rental back late?",
            "How old must one be to rent a tandem?",
            "Are there any tandems to hire on {when}?",
            "Can I reserve three hire bikes for {when}?",
        ],
        "purchase": [
            "I'll take the red helmet, please keep it for me.",
            "What would you charge for that shiny bell?",
            "I need a new bike, mine was stolen.",
            "Do you stock tyres for a folding bike?",
            "How much is a new {thing}, and do you have it in black?",
            "I want to buy my son his first bike.",
            "Are there any used bikes on sale at the moment?",
            "Could you order the {thing} from the catalogue? I'd buy two.",
            "Which lights would you sell me for a dark road?",
        ],
        "complaint": [
            "What a disgrace, I will tell all my friends.",
            "You promised two days and it took two weeks.",
            "I paid for new brakes and they still do not work!",
            "Very unhappy with how I was treated.",
            "After your so-called service the bike is worse than before.",
            "I am really angry. You charged me twice!",
            "Terrible service, I was ignored for half an hour.",
            "The {thing} is faulty and you refuse to refund it. Shame on you.",
            "Your mechanic promised to call and never did. I am fed up.",
            "I left my bike on {when} and got it back dirty. Not good enough.",
        ],
        "visit": [
            "How late can I come by tonight?",
            "Are you near the fish market?",
            "Which door is yours in Harbour Lane?",
            "Do you also open in the evening?",
            "Till when is somebody in the shop on {when}?",
            "What is your address, please?",
            "Could you tell me your opening times?",
            "Can I walk to you from the station?",
            "Is the shop shut on Mondays?",
            "We would like to drop in on {when}. Is anyone there?",
        ],
    },
}
CLASSIFICATION_WORDS: Mapping[str, Words] = {
    "classification": {
        "thing": ["saddle", "pedal", "front wheel", "basket", "bell", "rear light", "gear cable", "mudguard", "crank",
                  "handlebar", "kickstand", "luggage rack"],
        "when": ["Tuesday", "Wednesday", "Friday", "the third of May", "market day", "Whit Monday"],
    },
    "classification_heldout": {
        "thing": ["fork", "dynamo", "seat post", "trailer"],
        "when": ["Thursday", "Saturday", "Easter Monday"],
    },
}  # fmt: skip


def classification(name: str, count: int) -> list[Row]:
    """Messages to the shop, `count` of each label, no two alike."""
    draw, rows = random.Random(name), dict[str, str]()
    for label, wordings in CLASSIFICATION[name].items():
        made = dict[str, str]()
        choices = [filled(w, CLASSIFICATION_WORDS[name], draw)[0] for w in wordings for _ in range(6)]
        firsts = choices[::6]  # every wording once, then others of those with places for words
        for text in firsts + draw.sample(choices, len(choices)):
            if len(made) < count:
                made[text] = label
        rows |= made
    listed = [{"text": text, "label": label} for text, label in rows.items()]
    draw.shuffle(listed)
    return listed
