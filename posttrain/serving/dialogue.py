"""From messages to tokens and from tokens to text: the model's own template, and text that comes piece by piece."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data_formats import BadRow, Message
from posttrain.data_formats.dialogues.dialogue import read_dialogue
from posttrain.data_formats.dialogues.turns import check_prompt
from posttrain.data_formats.examples import Tool
from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.errors import DataError

# Where the text of a call may begin; the forms are those of data_formats.scoring.
_MAY_BE_CALL = re.compile(r"[<\[{]|\A\s*to=")


class Speaker:
    """A tokenizer with its chat template, safe to ask from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._template = ChatTemplate.of(tokenizer) if tokenizer.chat_template else None

    def prompt(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens of {"messages", "tools"}, up to where the model answers.

        Raises DataError that names the field; also where the model has no chat template.
        """
        messages, tools = _read(row)
        with self._lock:
            template = self._template or ChatTemplate.of(self.tokenizer)
            return self._encode(template.with_tools(tools).prompt(messages), special=False)

    def plain(self, text: str) -> list[int]:
        """The tokens of a text that is to be gone on with, as the tokenizer begins every text."""
        with self._lock:
            return self._encode(text, special=True)

    def _encode(self, text: str, special: bool) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=special)["input_ids"]]

    @property
    def end_of_turn(self) -> int | None:
        """The special token that the template ends an answer with; None where it has none of its own."""
        if self._template is None:
            return None
        try:
            shown = self._template.render_last([Message("user", "Hi"), Message("assistant", "Hi")])
        except DataError:
            return None
        answer = self._encode(shown.text[slice(*shown.spans[-1])], special=False)
        return answer[-1] if answer and answer[-1] in self.tokenizer.added_tokens_decoder else None


def _read(row: Mapping[str, Any]) -> tuple[Sequence[Message], Sequence[Tool]]:
    try:
        turns, tools = read_dialogue(row, "messages")
        return check_prompt(turns, "messages", tools), tools
    except BadRow as bad:
        raise DataError(f"{bad.field} {bad.reason}") from bad


@dataclass
class Spoken:
    """Text that grows by tokens; what `add` returns is final, and joined it is the whole.

    stops: texts that end the answer; they are not part of it.
    special: special tokens are written out, as the parser of calls needs them.
    """

    tokenizer: Any
    stops: Sequence[str] = ()
    special: bool = False

    def __post_init__(self) -> None:
        self._ids: list[int] = []
        self._shown, self._read = 0, 0  # tokens: where decoding begins, and up to where text was given away
        self._held = ""  # the beginning of a stop text, perhaps
        self.stopped = False

    def add(self, tokens: Sequence[int], last: bool = False) -> str:
        """The text that these tokens make certain. last: no others come."""
        if self.stopped:
            return ""
        self._ids += tokens
        text = self._held + self._new_text(last)
        ends = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        held = 0 if last else max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _new_text(self, last: bool) -> str:
        """Decoded with a few tokens before them, because the first token of a text may lose its space."""
        before = self._decode(self._ids[self._shown : self._read])
        text = self._decode(self._ids[self._shown :])
        if not last and text.endswith("\ufffd"):  # a character of which some bytes are still to come
            return ""
        self._shown, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=not self.special, clean_up_tokenization_spaces=False
            )
        )


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text begin the stop text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def certain_part(text: str) -> int:
    """So many characters of an answer cannot be part of a call, whatever comes behind them."""
    found = _MAY_BE_CALL.search(text)
    if found:
        return found.start()
    return 0 if "to=".startswith(text.strip()) else len(text)
