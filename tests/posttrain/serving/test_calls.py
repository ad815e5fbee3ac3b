"""Calls of tools in the shapes of the API, with a stand-in for the model that says what the test wants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from posttrain.pipeline import ModelRef
from posttrain.pipeline.base_models import find_base, shared_tokenizer
from posttrain.serving.app import make_app
from posttrain.serving.bank import Served
from posttrain.serving.dialogue import Speaker
from posttrain.serving.engine import Deliver, Limits, Ticket
from posttrain.serving.sampling import Sampling
from posttrain.web import Guard
from tests.posttrain.web.running import running


class Says:
    """An engine that answers with the text that it was asked with last."""

    longest, limits = 4096, Limits()

    def __init__(self, speaker: Speaker) -> None:
        self.speaker, self.text = speaker, ""

    def submit(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: str | None,
        deliver: Deliver,
    ) -> Ticket:
        for token in self.speaker.tokenizer(self.text, add_special_tokens=False)["input_ids"]:
            deliver([token], None)
        deliver([], "stop")
        return Ticket(prompt, max_tokens, sampling, "", deliver, 0.0)


class OneModel:
    def __init__(self) -> None:
        speaker = Speaker(shared_tokenizer(find_base("tiny-random").folder))
        self.says: Any = Says(speaker)
        self._served = Served("m", ModelRef("tiny-random", "0"), self.says, speaker, None)

    def find(self, name: str) -> Served:
        return self._served


@pytest.fixture(scope="module")
def spoken() -> Iterator[tuple[openai.OpenAI, Says]]:
    bank: Any = OneModel()
    with running(Guard(make_app(bank), token=None)) as address:
        http = httpx.Client(verify=False, trust_env=False)
        yield (
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, http_client=http),
            bank.says,
        )


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]
TAGGED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TWO = TAGGED + '\n<tool_call>{"name": "time", "arguments": {}}</tool_call>'


def ask(spoken: tuple[openai.OpenAI, Says], text: str, **more: Any) -> Any:
    spoken[1].text = text
    return spoken[0].chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], **more)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (TAGGED, None, [("weather", {"city": "Zürich"})]),
        ("Let me look. " + TWO, "Let me look.", [("weather", {"city": "Zürich"}), ("time", {})]),
        ('{"name": "time", "parameters": {}}', None, [("time", {})]),
        ('[weather(city="Rome")]', None, [("weather", {"city": "Rome"})]),
        ("No call, <b>just</b> text {a}.", "No call, <b>just</b> text {a}.", []),
        ("<tool_call>{broken", "<tool_call>{broken", []),
    ],
)
def test_calls_are_told_apart_from_text(
    spoken: tuple[openai.OpenAI, Says], text: str, content: str | None, calls: list[Any]
) -> None:
    choice = ask(spoken, text, tools=TOOLS).choices[0]
    found = [
        (one.function.name, json.loads(one.function.arguments)) for one in choice.message.tool_calls or ()
    ]
    assert (choice.message.content, found) == (content, calls)
    assert choice.finish_reason == ("tool_calls" if calls else "stop")

    parts = [part.choices[0] for part in ask(spoken, text, tools=TOOLS, stream=True)]
    streamed = [one for part in parts for one in part.delta.tool_calls or ()]
    assert [(one.function.name, json.loads(one.function.arguments)) for one in streamed] == calls
    assert [one.index for one in streamed] == list(range(len(calls)))
    assert "".join(part.delta.content or "" for part in parts).strip() == (content or "")
    assert parts[-1].finish_reason == choice.finish_reason


def test_without_tools_everything_is_text(spoken: tuple[openai.OpenAI, Says]) -> None:
    assert ask(spoken, TAGGED).choices[0].message.content == TAGGED
    assert ask(spoken, TAGGED, tools=TOOLS, tool_choice="none").choices[0].message.content == TAGGED
