"""What every data file becomes: documents, dialogues, completions and pairs, each knowing its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["text", "conversation", "preference", "unpaired", "prompt"]
Overlong = Literal["error", "drop", "truncate", "split"]  # what to do with rows longer than max_length
WAYS: Mapping[Kind, tuple[Overlong, ...]] = {  # half a pair or half a prompt is another one
    "text": ("error", "drop", "truncate", "split"),
    "conversation": ("error", "drop", "truncate", "split"),
    "preference": ("error", "drop", "truncate"),
    "unpaired": ("error", "drop", "truncate"),
    "prompt": ("error", "drop"),
}
Role = Literal["system", "user", "assistant"]
Row = Mapping[str, Any]
Source = str | Path | Sequence[Row]  # a file, or rows in memory


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    trained: bool = True  # looked at on assistant turns only; False: read, not learned


@dataclass(frozen=True, slots=True)
class Document:
    place: str  # "corpus.jsonl:17"
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    place: str
    messages: tuple[Message, ...]


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


Example = Document | Conversation | Completion | Pair | Judged | Prompt


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
