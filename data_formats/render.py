"""Dialogues as text, in the tokenizer's own chat template, with the characters to train on proven.

One function renders for training, evaluation and generation, so that what is learned is what is asked later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.errors import DataError

from .examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
PROBE = "\N{CURRENCY SIGN}"  # no template writes it by itself


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: tuple[tuple[int, int], ...]  # characters (start, end): an answer and the stop token that ends it
    stop_added: bool = False  # the template ends no turn, so the tokenizer's end token was put there


class NotProven(DataError):
    """The template does not build a dialogue turn by turn; the text says where it differs."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Rendered:
    """The whole dialogue once, with one span for each trained answer."""
    return ChatTemplate.of(tokenizer).render(messages)


def render_plain(prompt: str, completion: str, end: str) -> Rendered:
    """A prompt and its continuation as they are, with nothing between them and the end token behind."""
    completion = completion.removesuffix(end) + end
    return Rendered(prompt + completion, ((len(prompt), len(prompt) + len(completion)),))


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's template, made ready once for many dialogues."""

    tokenizer: PreTrainedTokenizerBase
    stops_at_end: re.Pattern[str]  # the special tokens at the end of a text; group "stop" is the first

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        if not tokenizer.chat_template:
            raise DataError(
                f"The tokenizer of '{tokenizer.name_or_path}' has no chat template, so it cannot write dialogues; "
                "start from an instruct model, set tokenizer.chat_template, or give plain 'prompt' and 'completion' texts."
            )
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        names = sorted({*tokenizer.all_special_tokens, *added})
        stop = "|".join(map(re.escape, names)) or "(?!)"
        return cls(tokenizer, re.compile(rf"(?P<stop>{stop})(?:\s|{stop})*\Z"))

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the model starts to answer."""
        return self._apply(messages, for_answer=True)

    def renderings(self, messages: Sequence[Message]) -> list[Rendered]:
        """One rendering; or one for each trained answer, where the template rewrites earlier turns."""
        try:
            return [self.render(messages)]
        except NotProven:
            turns = [i for i, message in enumerate(messages) if _is_trained(message)]
            return [self.render_last(messages[: i + 1]) for i in turns]

    def render(self, messages: Sequence[Message]) -> Rendered:
        if _is_trained(messages[-1]) and not any(map(_is_trained, messages[:-1])):
            return self.render_last(messages)
        text = self._apply(messages)
        spans = []
        for i, message in enumerate(messages):
            if _is_trained(message):
                turn = text if i + 1 == len(messages) else _proven(self._apply(messages[: i + 1]), text)
                spans.append(self._span(turn, messages[: i + 1]))
        if all(stop for _, stop in spans):
            return Rendered(text, tuple(span for span, _ in spans))
        # An end token amid the dialogue would not be there when the model is asked: one row for each answer.
        raise NotProven("The chat template ends no turn with a stop token.")

    def render_last(self, messages: Sequence[Message]) -> Rendered:
        """A dialogue of which only the last answer is trained: two renders, however long it is."""
        text = self._apply(messages)
        span, has_stop = self._span(text, messages)
        return Rendered(text, (span,)) if has_stop else self._with_stop(text, span)

    def _with_stop(self, text: str, span: tuple[int, int]) -> Rendered:
        text = text[: span[1]] + end_token(self.tokenizer)
        return Rendered(text, ((span[0], len(text)),), stop_added=True)

    def _span(self, turn: str, messages: Sequence[Message]) -> tuple[tuple[int, int], bool]:
        """Of a text that ends with an answer: what of it is trained, and whether a stop token is in it."""
        content = messages[-1].content.strip()
        start = len(_proven(self.prompt(messages[:-1]), turn))
        thought = EMPTY_THOUGHT.match(turn, start)
        if thought and not EMPTY_THOUGHT.match(content):
            start = thought.end()  # written by the template, not by the author of the answer
        end, has_stop = self._end_of_turn(turn, start, content)
        return (start, end), has_stop

    def _end_of_turn(self, turn: str, start: int, content: str) -> tuple[int, bool]:
        """The end of the first stop token behind the content; or the end of the text, if there is none."""
        at = turn.find(content, start)  # -1: the template changed the content
        found = self.stops_at_end.search(turn, at + len(content) if at >= 0 else start)
        return (found.end("stop"), True) if found else (len(turn.rstrip()), False)

    def _apply(self, messages: Sequence[Message], *, for_answer: bool = False) -> str:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer)
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise DataError(f"The chat template refuses a dialogue of {roles}: {error}") from None

    def injected_system(self) -> str:
        """What the template says by itself, in dialogues without a system turn."""
        asked = Message("user", "Hi")
        try:
            with_system = self._apply([Message("system", PROBE), asked])
        except DataError:
            return ""  # a template that refuses system turns adds none
        without = self._apply([asked])
        beginning = without[: len(without) - _in_common(without[::-1], with_system[::-1])]
        return beginning[_in_common(beginning, with_system) :].strip()


def _is_trained(message: Message) -> bool:
    return message.role == "assistant" and message.trained


def _proven(beginning: str, text: str) -> str:
    """`beginning`, if the text goes on from it."""
    if text.startswith(beginning):
        return beginning
    at = _in_common(beginning, text)
    raise NotProven(
        f"The chat template changes earlier text when a turn is added, so the answer cannot be told apart: {beginning[at : at + 40]!r} became {text[at : at + 40]!r}; use another template."
    )


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.eos_token:
        raise DataError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no end token, so the model would never learn to stop; set tokenizer.eos_token."
        )
    return str(tokenizer.eos_token)


def start_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """What this tokenizer puts in front of every plain text, if anything; chat templates write it themselves."""
    starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if starts else ""
