"""Requests, and the tools of the shop."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence

from extraction import EXTRACTION
from words import Row, Words, evenly, filled

Tool = tuple[str, str, Sequence[str], Sequence[str]]  # (name, description, its arguments, wordings)
TOOLS: Mapping[str, Sequence[Tool]] = {
    "calls": [
        ("book_repair", "Books a repair.", ("bike", "day"),
         ["Please book a repair of the {bike} for {day}.", "Can the {bike} come in on {day}? It needs mending."]),
        ("cancel_booking", "Cancels a booking.", ("customer",),
         ["{customer} cannot come, cancel the booking.", "Take {customer} out of the diary."]),
        ("order_part", "Orders parts from the supplier.", ("part", "count"),
         ["We are running low, order {count} of the {part}.", "Get us {count} more {part} from the supplier."]),
        ("check_stock", "Counts a part in the store.", ("part",),
         ["How many of the {part} are left?", "Do we still have a {part} in the store?"]),
        ("open_card", "Opens a customer's card.", ("name",),
         ["Show me the card of {name}.", "What do we know about {name}?"]),
        ("send_bill", "Sends a bill.", ("customer", "amount"),
         ["Send {customer} a bill over {amount} crowns.", "{customer} owes us {amount} crowns, write the bill."]),
        ("rent_out", "Rents out a bike.", ("model", "days"),
         ["A guest takes the {model} for {days} days.", "Rent out the {model}, {days} days please."]),
        ("take_back", "Takes a rental bike back.", ("bike_id",),
         ["Bike number {bike_id} is back from its rental.", "Somebody has returned bike {bike_id}."]),
        ("get_weather", "Tells the weather.", ("town",),
         ["Will it rain in {town}?", "What is the weather like in {town}?"]),
        ("opening_hours", "Tells when the shop is open.", ("day",),
         ["When do we open on {day}?", "How long is the shop open on {day}?"]),
        ("print_label", "Prints a price label.", ("article", "price"),
         ["Print a label for the {article}, {price} crowns.", "The {article} costs {price} crowns now, make a label."]),
        ("start_timer", "Starts the workshop's timer.", ("minutes",),
         ["Tell me when {minutes} minutes are over.", "The glue must dry for {minutes} minutes, set the timer."]),
        ("to_euros", "Converts crowns to euros.", ("crowns",),
         ["How many euros are {crowns} crowns?", "A tourist asks what {crowns} crowns are in euros."]),
        ("test_battery", "Tests the battery of an e-bike.", ("bike",),
         ["Check the battery of the {bike}.", "How good is the battery of the {bike}?"]),
        ("call_customer", "Rings a customer.", ("name", "hour"),
         ["Ring {name} at {hour} o'clock.", "{name} wants to be called, {hour} o'clock is fine."]),
        ("price_of", "Looks up a price.", ("item",),
         ["What does a {item} cost?", "Look up the price of the {item}."]),
        ("move_bike", "Notes where a bike stands.", ("bike", "place"),
         ["I have put the {bike} into the {place}.", "The {bike} stands in the {place} from now on."]),
        ("lend_tool", "Notes who has a tool.", ("tool", "borrower"),
         ["{borrower} takes the {tool} home tonight.", "Write down that {borrower} has the {tool}."]),
        ("mark_ready", "Hangs the green tag on a bike.", ("bike",),
         ["The {bike} is finished.", "Put the green tag on the {bike}."]),
        ("ferry_times", "Lists the ferries of a day.", ("date",),
         ["Which ferries go on {date}?", "I need the ferry times for {date}."]),
    ],
    "calls_heldout": [
        ("book_lesson", "Books a riding lesson.", ("pupil", "weekday"),
         ["{pupil} would like a riding lesson on {weekday}.", "Put {pupil} down for a lesson, {weekday} suits best."]),
        ("refund_deposit", "Gives a deposit back.", ("guest", "sum"),
         ["Give {guest} the deposit of {sum} crowns back.", "{guest} gets {sum} crowns of deposit from us."]),
        ("track_parcel", "Finds a parcel.", ("number",),
         ["Where is parcel {number}?", "Parcel {number} has not come yet, can you find it?"]),
        ("hire_trailer", "Hires out the trailer.", ("hours",),
         ["The trailer goes out for {hours} hours.", "Someone needs the trailer, {hours} hours should do."]),
        ("plan_route", "Plans a bicycle route.", ("start", "goal"),
         ["How do I ride from {start} to {goal}?", "Find me a route to {goal}, I begin in {start}."]),
        ("cut_price", "Lowers a price.", ("product", "percent"),
         ["Take {percent} percent off the {product}.", "The {product} is {percent} percent cheaper this week."]),
        ("wash", "Puts a bike on the washing list.", ("vehicle",),
         ["The {vehicle} is covered in mud, clean it.", "Please wash the {vehicle}."]),
        ("thank", "Writes a card of thanks.", ("person", "reason"),
         ["Thank {person} for the {reason}.", "{person} brought us a {reason}, write a nice card."]),
    ],
}  # fmt: skip
VALUES: Mapping[str, Words] = {
    "calls": {
        "customer": EXTRACTION["extraction"]["customer"],
        "bike": ["blue roadster", "red tandem", "cargo bike", "old racer", "city bike", "folding bike", "mountain bike",
                 "e-bike", "white cruiser", "children's bike"],
        "part": EXTRACTION["extraction"]["part"],
        "day": ["Tuesday", "Wednesday", "Friday", "2 May", "19 June", "30 March"],
        "town": ["Wrenmouth", "Skarholm", "Lindow", "Dunmere", "Fellbrook", "Tolmen"],
        "place": ["yard", "cellar", "window", "back room", "rope store"],
        "tool": ["torque wrench", "chain whip", "truing stand", "cone spanner", "crank puller"],
    },
    "calls_heldout": {
        "pupil": EXTRACTION["extraction_heldout"]["customer"],
        "weekday": ["Thursday", "Saturday", "Monday"],
        "start": ["Quillon", "Ostrava Bay", "Marren"],
        "goal": ["Brackwater", "Heron Hill", "Harlow Sands"],
        "vehicle": ["grey gravel bike", "delivery trike", "green hand bike", "unicycle"],
        "product": EXTRACTION["extraction_heldout"]["part"],
        "reason": ["cake", "brass bell", "photograph", "flower pot"],
    },
}  # fmt: skip
SAME: Mapping[str, str] = {  # arguments that take the values of others
    "name": "customer", "borrower": "customer", "model": "bike", "article": "part", "item": "part", "date": "day",
    "guest": "pupil", "person": "pupil",
}  # fmt: skip
NUMBERS: Mapping[str, tuple[int, int]] = {  # from, to
    "count": (2, 30), "amount": (10, 200), "days": (2, 9), "bike_id": (2, 60), "price": (3, 90), "minutes": (2, 45),
    "crowns": (20, 900), "hour": (9, 17), "sum": (10, 80), "number": (100, 999), "hours": (2, 9), "percent": (5, 60),
}  # fmt: skip


def declared(tool: Tool) -> Row:
    """The tool as OpenAI declares it."""
    name, description, arguments, _ = tool
    properties = {one: {"type": "integer" if one in NUMBERS else "string"} for one in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def values_of(argument: str, name: str) -> Sequence[str]:
    """The words that it can be; none of a number."""
    return VALUES[name].get(SAME.get(argument, argument), ())


def requests(name: str, count: int, draw: random.Random) -> Iterator[tuple[str, Row, Tool, list[Tool]]]:
    """(what is asked, the arguments that it gives, the right tool, the declared ones); half have a second tool."""
    tools = TOOLS[name]
    for i, tool in enumerate(evenly(tools, count, draw)):
        numbers = {one: [str(draw.randint(*ends))] for one, ends in NUMBERS.items()}
        words = {one: values_of(one, name) for one in tool[2]}
        text, spans = filled(draw.choice(tool[3]), words | numbers, draw)
        said = {span["label"]: text[span["start"] : span["end"]] for span in spans}
        arguments = {one: int(said[one]) if one in NUMBERS else said[one] for one in tool[2]}
        others = [draw.choice([one for one in tools if one is not tool])] if i % 2 else []
        yield text, arguments, tool, draw.sample([tool, *others], 1 + len(others))


def calls(name: str, count: int) -> list[Row]:
    """A request and the call that it takes."""
    return [
        {
            "messages": [
                {"role": "user", "content": text},
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": tool[0], "arguments": arguments}}],
                },
            ],
            "tools": [declared(one) for one in tools],
        }
        for text, arguments, tool, tools in requests(name, count, random.Random(name))
    ]


# Pairs are texts, so the tools stand in the system turn as posttrain writes them for models without tools of their own.
_TOOLS_SAID = (
    "You can call these tools:\n<tools>\n{tools}\n</tools>\nTo call one, write its name and arguments as JSON in tags, "
    'once for each call:\n<tool_call>\n{{"name": ..., "arguments": {{...}}}}\n</tool_call>'
)


def written(name: str, arguments: Row) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def call_pairs(name: str, count: int) -> list[Row]:
    """A request, the right call, and one of five mistakes."""
    draw, of = random.Random(f"{name} pairs"), name.replace("call_pairs", "calls")
    rows = []
    for text, arguments, tool, tools in requests(of, count, draw):
        said = _TOOLS_SAID.format(tools="\n".join(json.dumps(declared(one)) for one in tools))
        turns = [{"role": "system", "content": said}, {"role": "user", "content": text}]
        chosen, rejected = written(tool[0], arguments), mistaken(tool, arguments, tools, of, draw)
        rows.append({"prompt": turns} | {
            key: [{"role": "assistant", "content": content}]
            for key, content in (("chosen", chosen), ("rejected", rejected))
        })  # fmt: skip
    return rows


def mistaken(tool: Tool, arguments: Row, tools: Sequence[Tool], of: str, draw: random.Random) -> str:
    """The wrong tool, a value that nobody said, an argument left out or renamed, or words where a call was needed."""
    one = draw.choice(tool[2])
    other = draw.choice([word for word in values_of(one, of) if word != arguments[one]] or [""])
    wrong_tools = [name for name, *_ in tools if name != tool[0]] or [f"get_{tool[0]}"]
    return draw.choice([
        written(wrong_tools[0], arguments),
        written(tool[0], arguments | {one: other or arguments[one] + draw.randint(1, 9)}),
        written(tool[0], {key: value for key, value in arguments.items() if key != one}),
        written(tool[0], {("value" if key == one else key): value for key, value in arguments.items()}),
        "Of course, I will do that for you at once.",
    ])  # fmt: skip
