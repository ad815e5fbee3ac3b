"""A conversation in the terminal with stages of a run: each has a dialogue of its own, on one base in memory."""

from __future__ import annotations

import queue
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from posttrain.errors import DataError, NoSuchStageError

from .bank import Bank, Offer, Served
from .dialogue import Spoken
from .engine import Reason
from .sampling import Sampling

Say = Callable[[str], None]


@dataclass
class Dialogue:
    """What was said to one model and by it."""

    served: Served
    messages: list[dict[str, str]] = field(default_factory=list)

    def answer(self, system: str, text: str, max_tokens: int, temperature: float) -> Iterator[str]:
        """The answer to a message, piece by piece; kept once it is complete. Raises DataError when there is no room."""
        asked = [*self.messages, {"role": "user", "content": text}]
        first = [{"role": "system", "content": system}] if system else []
        prompt = self.served.speaker.prompt({"messages": [*first, *asked]})
        engine, said = self.served.engine, ""
        room = engine.longest - len(prompt)
        if room < 1:
            raise DataError(
                f"The dialogue has {len(prompt)} tokens, and the model reads {engine.longest}; /reset begins anew."
            )
        pieces: queue.Queue[tuple[list[int], Reason | None]] = queue.Queue()
        sampling = Sampling(temperature, seed=secrets.randbits(63))
        ticket = engine.submit(
            prompt,
            min(room, max_tokens),
            sampling,
            self.served.adapter,
            lambda tokens, end: pieces.put((tokens, end)),
        )
        spoken, reason = Spoken(self.served.speaker.tokenizer), None
        try:
            while reason is None:
                tokens, reason = pieces.get()
                if part := spoken.add(tokens, last=reason is not None):
                    said += part
                    yield part
        finally:
            ticket.cancel()
        if said.strip():  # an empty turn is none that a template takes
            self.messages = [*asked, {"role": "assistant", "content": said}]


class Talk:
    """What `posttrain chat` does with each line that is typed.

    offers: the models that can be talked with; each is loaded when it is first asked for.
    """

    def __init__(
        self, bank: Bank, offers: Mapping[str, Offer], name: str, max_tokens: int, temperature: float
    ) -> None:
        self._bank, self._offers, self._name = bank, offers, name
        self._max_tokens, self._temperature = max_tokens, temperature
        self._dialogues: dict[str, Dialogue] = {}
        self._other, self._system = "", ""
        self._dialogue(name)

    @property
    def name(self) -> str:
        """Of who answers, to be shown in the prompt."""
        return f"{self._name} | {self._other}" if self._other else self._name

    def answers(self, text: str) -> list[tuple[str, Iterator[str]]]:
        """(who, the answer piece by piece) of the stage, and of the one that it is compared with."""
        names = [self._name, self._other] if self._other else [self._name]
        found = []
        for name in names:
            said = self._dialogue(name).answer(self._system, text, self._max_tokens, self._temperature)
            found.append((name, said))
        return found

    def command(self, line: str) -> str:
        """What to say about a line such as /stage sft. Raises NoSuchStageError."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], str]] = {
            "/stage": self._stage, "/compare": self._compare, "/reset": self._reset, "/system": self._set_system, "/help": lambda _: HELP,
        }  # fmt: skip
        if word not in commands:
            return f"There is no {word}. {HELP}"
        return commands[word](rest)

    def _stage(self, name: str) -> str:
        self._dialogue(name or self._name)
        self._name, self._other = name or self._name, ""
        return f"{self._name} answers from here on. There are: {', '.join(self._offers)}."

    def _compare(self, name: str) -> str:
        if name:
            self._dialogue(name)
        self._other = name
        return (
            f"{self._name} and {name} answer, each in a dialogue of its own."
            if name
            else f"{self._name} answers alone."
        )

    def _reset(self, _: str) -> str:
        for one in self._dialogues.values():
            one.messages = []
        return "The dialogues begin anew."

    def _set_system(self, text: str) -> str:
        self._system = text
        self._reset("")
        return f"The system prompt is {text!r}." if text else "There is no system prompt."

    def _dialogue(self, name: str) -> Dialogue:
        if name not in self._dialogues:
            if name not in self._offers:
                raise NoSuchStageError(
                    f"There is no stage {name!r} to talk with; there are {', '.join(self._offers)}."
                )
            self._dialogues[name] = Dialogue(
                self._bank.find(name) or self._bank.add(name, self._offers[name].ref)
            )
        return self._dialogues[name]


HELP = "/stage NAME, /compare NAME (or nothing, to end it), /system TEXT, /reset, /quit."
