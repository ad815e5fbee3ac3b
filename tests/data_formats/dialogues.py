"""Small dialogues of every kind, and how a template renders them."""

from posttrain.data_formats import Message
from posttrain.data_formats.examples import Call
from posttrain.data_formats.rendering.render import ChatTemplate

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "A city."}},
            "required": ["city"],
        },
    },
}
PARIS, OSLO = Call("weather", {"city": "Paris"}), Call("weather", {"city": "Oslo"})


def user(text):
    return Message("user", text)


def assistant(text="", *calls, reasoning=""):
    return Message("assistant", text, calls=calls, reasoning=reasoning)


SYSTEM = Message("system", "be")
ONE = (user("hi"), assistant("yo"))
TWO = (*ONE, user("and"), assistant("no"))
THREE = (*TWO, user("so"), assistant("go"))
WITH_SYSTEM = (SYSTEM, *TWO)
THOUGHT = (user("hi"), assistant("yo", reasoning="Hm"))
THOUGHTS = (*THOUGHT, user("and"), assistant("no", reasoning="Er"))
CALL = (user("W?"), assistant("", PARIS), Message("tool", "sunny"), assistant("Sun."))
CALLS = (
    user("W?"), assistant("", PARIS, OSLO), Message("tool", "sunny"), Message("tool", "rain"), assistant("Both."),
)  # fmt: skip
SAID_AND_CALL = (user("W?"), assistant("I look.", PARIS), *CALL[2:])
THOUGHT_AND_CALL = (
    user("W?"), assistant("", PARIS, reasoning="Hm"), CALL[2], assistant("Sun.", reasoning="Er"),
)  # fmt: skip


def has_calls(messages):
    return any(message.calls for message in messages)


def rendered(tokenizer, messages):
    return ChatTemplate.of(tokenizer, [TOOL] if has_calls(messages) else ()).renderings(messages)


def spans(tokenizer, messages):
    return [one.spans for one in rendered(tokenizer, messages)]


def golden(tokenizer, messages, since=""):
    """Each rendering with «» around what is trained; `since`: what stands before it is left out."""
    texts = []
    for one in rendered(tokenizer, messages):
        text = one.text
        for start, end in reversed(one.spans):
            text = f"{text[:start]}«{text[start:end]}»{text[end:]}"
        texts.append(text[text.index(since) :])
    return texts


def trained(tokenizer, messages):
    return [[one.text[start:end] for start, end in one.spans] for one in rendered(tokenizer, messages)]
