"""Answers in the shapes of the OpenAI API, whole and as a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.data_formats.scoring.calls import calls_in

from .bank import Served
from .dialogue import Spoken, certain_part
from .engine import Reason, Ticket
from .requests import Asked, BadRequest, Chat

_LOST = {
    "error": "The answer was lost by the server; ask again.",
    "timeout": "The server took too long; ask again later.",
}


_New = tuple[list[int], Reason | None]  # tokens, and why the answer ended behind them


class Post:
    """What the engine's thread has for the event loop's: one wake-up for all that wait.

    A step makes a token for each of many answers. Woken for each of them, the event loop's thread takes the interpreter
    away from the engine's as often, and the step after it waits.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._letters: deque[tuple[asyncio.Queue[_New], _New]] = deque()
        self._called = False

    def send(self, to: asyncio.Queue[_New], new: _New) -> None:
        """From any thread."""
        self._letters.append((to, new))
        if not self._called:
            self._called = True
            self.loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._called = False  # first: what comes from here on calls again
        while self._letters:
            to, new = self._letters.popleft()
            to.put_nowait(new)


class Answering:
    """One request at work: tokens come in from the engine's thread, text goes out on the event loop's."""

    def __init__(self, served: Served, asked: Asked, prompt: list[int], post: Post) -> None:
        room = served.engine.longest - len(prompt)
        if not prompt:
            raise BadRequest("The prompt is empty.", "prompt")
        if room < (asked.max_tokens or 1):
            raise BadRequest(
                f"The prompt has {len(prompt)} tokens and the answer may take {asked.max_tokens or 1}; together they may "
                f"have {served.engine.longest}.",
                "messages" if isinstance(asked, Chat) else "prompt", "context_length_exceeded",
            )  # fmt: skip
        self._served, self.asked, self._prompt = served, asked, prompt
        self._max_tokens = asked.max_tokens or min(room, served.engine.limits.answer_tokens)
        self._post, self._queue = post, asyncio.Queue[_New]()
        self._ticket: Ticket | None = None
        self.completion_tokens, self.reason = 0, ""

    def begin(self) -> None:
        """Raises Overloaded, or NoSuchAdapter when it was unloaded meanwhile."""
        served = self._served
        self._ticket = served.engine.submit(
            self._prompt, self._max_tokens, self.asked.sampling, served.adapter, self._deliver
        )

    def _deliver(self, tokens: list[int], reason: Reason | None) -> None:
        self._post.send(self._queue, (tokens, reason))

    def cancel(self) -> None:
        """Free the slot; harmless when the answer is complete."""
        if self._ticket is not None:
            self._ticket.cancel()

    async def text(self) -> AsyncIterator[str]:
        """The answer piece by piece. Raises BadRequest, with a status of its own, when it cannot be completed."""
        spoken = Spoken(self._served.speaker.tokenizer, self.asked.stops, special=_has_tools(self.asked))
        reason: Reason | None = None
        while reason is None and not spoken.stopped:
            tokens, reason = await self._queue.get()
            if reason in _LOST:
                status = 429 if reason == "timeout" else 503
                raise BadRequest(_LOST[reason], code=reason, status=status)
            self.completion_tokens += len(tokens)
            if text := spoken.add(tokens, last=reason is not None):
                yield text
        self.cancel()
        self.reason = "stop" if spoken.stopped else str(reason)

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": len(self._prompt),
            "completion_tokens": self.completion_tokens,
            "total_tokens": len(self._prompt) + self.completion_tokens,
        }


@dataclass(frozen=True)
class Form:
    """How the answers of one endpoint look."""

    asked: Asked
    model: str
    number: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _is_chat(self) -> bool:
        return isinstance(self.asked, Chat)

    def _envelope(self, choices: list[dict[str, Any]], part: bool) -> dict[str, Any]:
        kind = (
            ("chat.completion.chunk" if part else "chat.completion") if self._is_chat else "text_completion"
        )
        prefix = "chatcmpl" if self._is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.number}", "object": kind, "created": self.created, "model": self.model,
            "choices": choices,
        }  # fmt: skip

    def _choice(self, content: Mapping[str, Any], reason: str | None, part: bool) -> dict[str, Any]:
        if not self._is_chat:
            return {
                "index": 0,
                "text": content.get("content") or "",
                "logprobs": None,
                "finish_reason": reason,
            }
        return {
            "index": 0,
            ("delta" if part else "message"): content,
            "logprobs": None,
            "finish_reason": reason,
        }

    def _chunk(self, content: Mapping[str, Any], reason: str | None = None) -> str:
        value = self._envelope([self._choice(content, reason, True)], True)
        if self.asked.usage_in_stream:
            value["usage"] = None
        return _event(value)

    async def whole(self, answering: Answering) -> dict[str, Any]:
        text = "".join([part async for part in answering.text()])
        content, reason = self._said(answering, text, 0)
        message = {"role": "assistant", "content": None, **content} if self._is_chat else content
        return self._envelope([self._choice(message, reason, False)], False) | {"usage": answering.usage}

    async def stream(self, answering: Answering) -> AsyncIterator[str]:
        """Server-sent events. With tools, text that may begin a call is kept until it is known to be none."""
        text, sent = "", 0
        try:
            if self._is_chat:
                yield self._chunk({"role": "assistant", "content": ""})
            async for part in answering.text():
                text += part
                certain = certain_part(text) if _has_tools(self.asked) else len(text)
                if certain > sent:
                    yield self._chunk({"content": text[sent:certain]})
                    sent = certain
            content, reason = self._said(answering, text, sent)
            if "tool_calls" in content:
                content = {"tool_calls": [{"index": i, **one} for i, one in enumerate(content["tool_calls"])]}
            yield self._chunk(content, reason)
            if self.asked.usage_in_stream:
                yield _event(self._envelope([], True) | {"usage": answering.usage})
            yield "data: [DONE]\n\n"
        except BadRequest as error:
            yield _event(as_error(error))

    def _said(self, answering: Answering, text: str, sent: int) -> tuple[dict[str, Any], str]:
        """(what the answer says behind its first `sent` characters, why it ended)."""
        if not _has_tools(self.asked):
            return {"content": text[sent:]}, answering.reason
        calls = calls_in(text).calls
        if not calls:
            return {"content": text[sent:]}, answering.reason
        written = [
            {
                "id": f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {"name": one.name, "arguments": json.dumps(one.arguments, ensure_ascii=False)},
            }
            for one in calls
        ]
        before = text[: certain_part(text)]
        return ({"content": before.strip() or None} if not sent else {}) | {
            "tool_calls": written
        }, "tool_calls"


def _has_tools(asked: Asked) -> bool:
    return isinstance(asked, Chat) and asked.has_tools


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def as_error(error: BadRequest) -> dict[str, Any]:
    kind = {404: "not_found_error", 429: "rate_limit_error", 503: "server_error"}.get(
        error.status, "invalid_request_error"
    )
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
