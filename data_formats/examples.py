"""What every data file becomes: documents, dialogues, completions and pairs, each knowing its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["text", "conversation", "preference", "unpaired", "prompt", "labelled", "tagged", "exchange"]
# What rows of a kind are written in where it has no formats of its own: an exchange is a dialogue of one answer.
WRITTEN_AS: Mapping[Kind, Kind] = {"exchange": "conversation"}
Overlong = Literal["error", "drop", "truncate", "split"]  # what to do with rows longer than max_length
WAYS: Mapping[Kind, tuple[Overlong, ...]] = {  # half a pair or half a prompt is another one
    "text": ("error", "drop", "truncate", "split"),
    "conversation": ("error", "drop", "truncate", "split"),
    "preference": ("error", "drop", "truncate"),
    "unpaired": ("error", "drop", "truncate"),
    "prompt": ("error", "drop"),
    "labelled": ("error", "drop", "truncate"),
    "tagged": ("error", "drop", "truncate"),
    "exchange": ("error", "drop", "truncate"),
}
Role = Literal["system", "user", "assistant", "tool"]
Row = Mapping[str, Any]
Tool = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}
Source = str | Path | Sequence[Row]  # a file, or rows in memory


@dataclass(frozen=True, slots=True)
class Call:
    """What an assistant asks a tool to do; the arguments are always an object, never JSON text."""

    name: str
    arguments: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": dict(self.arguments)}


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str  # may be empty on an assistant turn that calls tools
    trained: bool = True  # looked at on assistant turns only; False: read, not learned
    calls: tuple[Call, ...] = ()
    reasoning: str = ""  # what an assistant thought before it spoke


@dataclass(frozen=True, slots=True)
class Document:
    place: str  # "corpus.jsonl:17"
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue. `gold`: what its format's metric needs to judge an answer to everything but the last turn."""

    place: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    gold: Mapping[str, Any] | None = None  # JSON: {"answers": [...]}, {"label": ..., "labels": [...]}


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its answer as plain texts: one turn each in a chat template, if the model has one."""

    place: str
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; a prompt of plain text is one user turn, if the model has a chat template."""

    place: str
    prompt: tuple[Message, ...] | str
    chosen: str
    rejected: str
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to a prompt, good or bad; a prompt of plain text is one user turn, if there is a chat template."""

    place: str
    prompt: tuple[Message, ...] | str
    answer: str
    desirable: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked; plain text is one user turn, if the model has a chat template."""

    place: str
    prompt: tuple[Message, ...] | str
    columns: Mapping[str, Any]  # the row's other columns, for reward functions: "answer", "tests"
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its classes, for a model with a classification head."""

    place: str
    text: str
    labels: tuple[int, ...]  # positions in the format's list of labels
    several: bool = False  # the file has lists: any number of labels for each text


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text and the spans that it names, for a model that tags tokens."""

    place: str
    text: str
    spans: tuple[
        tuple[int, int, int], ...
    ]  # (start, end, label): characters, position in the format's labels


Example = Document | Conversation | Completion | Pair | Judged | Prompt | Labelled | Tagged


@dataclass(frozen=True)
class Detection:
    format: str
    why: str


@dataclass(frozen=True)
class Examples:
    """The examples of one source, all of one kind, in the order of the source."""

    examples: tuple[Example, ...]
    detection: Detection
    source: str
    kind: Kind
    notes: tuple[str, ...] = ()  # what was in the source and is not used

    def __len__(self) -> int:
        return len(self.examples)
