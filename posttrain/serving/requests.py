"""What a client may ask for, checked field by field: whatever would be ignored is refused by name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .sampling import Sampling

MOST_MESSAGES, MOST_STOPS, LONGEST_STOP, MOST_TOOLS = 256, 8, 256, 128
_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHARED = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "user",
)
_CHAT = (
    *_SHARED,
    "messages",
    "max_completion_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
)
_COMPLETION = (*_SHARED, "prompt")
# Fields of the API that are not there; their values that change nothing may be sent.
_HARMLESS: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": (0, 0.0), "presence_penalty": (0, 0.0), "logprobs": (False,), "top_logprobs": (), "logit_bias": ({},),
    "echo": (False,), "suffix": (), "best_of": (1,), "functions": (), "function_call": (), "store": (False,),
    "metadata": ({},), "service_tier": ("auto", "default"),
}  # fmt: skip


class BadRequest(Exception):
    """Answered with its status and the field at fault."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True)
class Asked:
    """What both endpoints have in common. max_tokens: None is what the engine gives to those who do not say."""

    model: str
    stream: bool
    usage_in_stream: bool
    max_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Chat(Asked):
    row: Mapping[str, Any]  # {"messages", "tools"}: read by posttrain.data_formats, as the rows of a file are

    @property
    def has_tools(self) -> bool:
        return bool(self.row.get("tools"))


@dataclass(frozen=True)
class Completion(Asked):
    prompt: str | tuple[int, ...]


def read_chat(body: Any) -> Chat:
    """Raises BadRequest."""
    body = _checked(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_MESSAGES:
        raise BadRequest(f"messages must be a list of 1 to {MOST_MESSAGES} messages.", "messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise BadRequest(
                f"messages[{i}] must be an object with a role: {', '.join(_ROLES)}.", f"messages[{i}]"
            )
    return Chat(**_shared(body, "max_completion_tokens"), row={"messages": messages, "tools": _tools(body)})


def read_completion(body: Any) -> Completion:
    """Raises BadRequest."""
    body = _checked(body, _COMPLETION)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(type(one) is int and one >= 0 for one in prompt):
        return Completion(**_shared(body), prompt=tuple(prompt))
    if not isinstance(prompt, str):
        raise BadRequest("prompt must be one text, or one list of token ids.", "prompt")
    return Completion(**_shared(body), prompt=prompt)


def _checked(body: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    for name, value in body.items():
        if name in known or value is None or _is_harmless(name, value):
            continue
        what = "is not supported here" if name in _HARMLESS else "is no known field"
        raise BadRequest(f"{name[:64]} {what}; leave it out.", name[:64], "unsupported_parameter")
    if not isinstance(body.get("model"), str):
        raise BadRequest("model must be the name of a model; GET /v1/models lists them.", "model")
    return {name: value for name, value in body.items() if value is not None}


def _is_harmless(name: str, value: Any) -> bool:
    return any(type(value) is type(one) and value == one for one in _HARMLESS.get(name, ()))


def _shared(body: Mapping[str, Any], *longer_names: str) -> dict[str, Any]:
    if type(body.get("n", 1)) is not int or body.get("n", 1) != 1:
        raise BadRequest("n can only be 1; send several requests, they are answered together.", "n")
    names = [name for name in ("max_tokens", *longer_names) if name in body]
    if len(names) > 1:
        raise BadRequest(f"Give {names[0]} or {names[1]}, not both.", names[1])
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or not {*options} <= {"include_usage", "include_obfuscation"}:
        raise BadRequest("stream_options takes include_usage alone.", "stream_options")
    seed = _whole(body, "seed", -(2**63), 2**63 - 1)
    return {
        "model": body["model"],
        "stream": _flag(body, "stream"),
        "usage_in_stream": _flag(options, "include_usage"),
        "max_tokens": _whole(body, names[0], 1, 2**31) if names else None,
        "sampling": Sampling(
            _number(body, "temperature", 1.0, 0.0, 2.0), _number(body, "top_p", 1.0, 0.0, 1.0),
            secrets.randbits(63) if seed is None else seed,
        ),
        "stops": _stops(body.get("stop", ())),
    }  # fmt: skip


def _stops(value: Any) -> tuple[str, ...]:
    stops = (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else (None,)
    )
    if len(stops) > MOST_STOPS or not all(
        isinstance(one, str) and 0 < len(one) <= LONGEST_STOP for one in stops
    ):
        raise BadRequest(f"stop must be up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters.", "stop")
    return stops


def _tools(body: Mapping[str, Any]) -> list[Any]:
    tools = body.get("tools", [])
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS:
        raise BadRequest(f"tools must be a list of up to {MOST_TOOLS}.", "tools")
    if body.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise BadRequest(
            "response_format can only be text: decoding is not constrained.",
            "response_format",
            "unsupported_parameter",
        )
    if body.get("parallel_tool_calls", True) is not True:
        raise BadRequest(
            "parallel_tool_calls can only be true: decoding is not constrained.",
            "parallel_tool_calls",
            "unsupported_parameter",
        )
    choice = body.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise BadRequest(
            "tool_choice can be auto or none: decoding is not constrained.",
            "tool_choice",
            "unsupported_parameter",
        )
    return [] if choice == "none" else tools


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false.", name)
    return value


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise BadRequest(f"{name} must be a whole number from {least} to {most}.", name)
    return value


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name, default)
    if type(value) not in (int, float) or not least <= value <= most:
        raise BadRequest(f"{name} must be a number from {least:g} to {most:g}.", name)
    return float(value)
