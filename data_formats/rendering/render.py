"""Dialogues as text, in the tokenizer's own chat template, with the characters to train on proven.

One function renders for training, evaluation and generation, so that what is learned is what is asked later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from ..examples import Message, Tool
from .ability import EMPTY_THOUGHT, PROBE, Ability
from .literals import in_common
from .tool_template import ToolForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: tuple[tuple[int, int], ...]  # characters (start, end): an answer and the stop token that ends it
    stop_added: bool = False  # the template ends no turn, so the tokenizer's end token was put there


class NotProven(DataError):
    """The template does not build a dialogue turn by turn; the text says where it differs."""


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> Rendered:
    """The whole dialogue once, with one span for each trained answer."""
    return ChatTemplate.of(tokenizer, tools).render(messages)


def render_plain(prompt: str, completion: str, end: str) -> Rendered:
    """A prompt and its continuation as they are, with nothing between them and the end token behind."""
    completion = completion.removesuffix(end) + end
    return Rendered(prompt + completion, ((len(prompt), len(prompt) + len(completion)),))


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's template, made ready once for many dialogues; with tools, for dialogues that have these."""

    ability: Ability
    tools: Sequence[Tool] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool] = ()) -> ChatTemplate:
        if not tokenizer.chat_template:
            raise DataError(
                f"The tokenizer of '{tokenizer.name_or_path}' has no chat template, so it cannot write dialogues; "
                "start from an instruct model, set tokenizer.chat_template, or give plain 'prompt' and 'completion' texts."
            )
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        names = sorted({*tokenizer.all_special_tokens, *added})
        stop = "|".join(map(re.escape, names)) or "(?!)"
        return cls(Ability(tokenizer, re.compile(rf"(?P<stop>{stop})(?:\s|{stop})*\Z")), tools)

    def with_tools(self, tools: Sequence[Tool]) -> ChatTemplate:
        return replace(self, tools=tools) if tools else self

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.ability.tokenizer

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
        if written := self._written_plainly(messages):
            return Rendered(*written)
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
        """A dialogue of which only the last answer is trained: two renders at most, however long it is."""
        if written := self._written_plainly(messages):
            return Rendered(written[0], written[1][-1:])
        text = self._apply(messages)
        span, has_stop = self._span(text, messages)
        return Rendered(text, (span,)) if has_stop else self._with_stop(text, span)

    def _written_plainly(self, messages: Sequence[Message]) -> tuple[str, tuple[tuple[int, int], ...]] | None:
        """Of a dialogue of texts alone: (text, trained characters), where they are proven without a look back."""
        clever = self.tools or any(turn.calls or turn.reasoning or turn.role == "tool" for turn in messages)
        return None if clever else self.ability.written_plainly(messages)

    def _with_stop(self, text: str, span: tuple[int, int]) -> Rendered:
        text = text[: span[1]] + end_token(self.tokenizer)
        return Rendered(text, ((span[0], len(text)),), stop_added=True)

    def _span(self, turn: str, messages: Sequence[Message]) -> tuple[tuple[int, int], bool]:
        """Of a text that ends with an answer: what of it is trained, and whether a stop token is in it."""
        answer = messages[-1]
        self._refuse_losses(answer)
        content = self._written([answer])[0].content.strip()
        start = self._behind_thought(turn, len(_proven(self.prompt(messages[:-1]), turn)), content)
        ending = self.ability.ending_of_calls if answer.calls else self.ability.ending
        if ending and turn.endswith(ending.text, start):
            return (start, len(turn) - len(ending.text) + ending.stop), True
        end, has_stop = self._end_of_turn(turn, start, content)
        return (start, end), has_stop

    def _behind_thought(self, turn: str, start: int, content: str) -> int:
        """Behind an empty thought that the template wrote, and not the author of the answer."""
        thought = self.ability.empty_thought
        end = start + len(thought)
        by_author = EMPTY_THOUGHT.match(content) and not turn[end:].lstrip().startswith(content)
        return end if turn.startswith(thought, start) and not by_author else start

    def _end_of_turn(self, turn: str, start: int, content: str) -> tuple[int, bool]:
        """The end of the first stop token behind the content; or the end of the text, if there is none."""
        at = turn.find(content, start)  # -1: the template changed the content
        found = self.ability.stops_at_end.search(turn, at + len(content) if at >= 0 else start)
        return (found.end("stop"), True) if found else (len(turn.rstrip()), False)

    def _refuse_losses(self, message: Message) -> None:
        """What the template leaves out of the text would not be learned, and nobody would know."""
        if not self.ability.shows_content:
            raise DataError(
                "The chat template leaves out what is said; it may take only lists of parts, as those of vision models do. Use another template."
            )
        if not message.calls:
            return
        form, said = self.ability.tools, message.content.strip()
        losses = {
            f"what is said beside a call ({said[:40]!r})": said and form.says == "nowhere",
            "what is thought before a call": message.reasoning
            and form.says != "before"
            and not self._shows_reasoning(message),
            f"every call of a turn but the first ({len(message.calls)} here)": len(message.calls) > 1
            and not form.several,
        }
        for loss, happens in losses.items():
            if happens:
                raise DataError(
                    f"The chat template leaves out {loss}; change the row or use another template."
                )

    def _apply(self, messages: Sequence[Message], *, for_answer: bool = False) -> str:
        ability = self.ability
        if self.tools or any(turn.calls or turn.role == "tool" for turn in messages):
            form = ability.tools
            turns = _turns_with_calls(self._written(messages), form)
            return ability.apply(form.template, turns, self.tools, for_answer=for_answer)
        turns = [_turn(message) for message in self._written(messages)]
        return ability.apply(ability.template, turns, for_answer=for_answer)

    def _written(self, messages: Sequence[Message]) -> Sequence[Message]:
        """With the reasoning in the text, where the template would leave it out."""
        if not any(turn.reasoning for turn in messages):
            return messages
        return [
            _with_thought(turn) if turn.reasoning and not self._shows_reasoning(turn) else turn
            for turn in messages
        ]

    def _shows_reasoning(self, turn: Message) -> bool:
        return self.ability.shows_reasoning_of_calls if turn.calls else self.ability.shows_reasoning

    def injected_system(self) -> str:
        """What the template says by itself, in dialogues without a system turn."""
        asked = Message("user", "Hi")
        try:
            with_system = self._apply([Message("system", PROBE), asked])
        except DataError:
            return ""  # a template that refuses system turns adds none
        without = self._apply([asked])
        beginning = without[: len(without) - in_common(without[::-1], with_system[::-1])]
        return beginning[in_common(beginning, with_system) :].strip()


def _with_thought(turn: Message) -> Message:
    thought = f"<think>\n{turn.reasoning}\n</think>\n"
    return replace(turn, reasoning="", content=f"{thought}\n{turn.content}" if turn.content else thought)


def _turn(message: Message) -> dict[str, Any]:
    thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
    return {"role": message.role, "content": message.content, **thought}


def _turns_with_calls(messages: Sequence[Message], form: ToolForm) -> list[dict[str, Any]]:
    """Calls are numbered through the dialogue, and a result has the name and number of its call."""
    turns, waiting, number = [], list[tuple[str, str]](), 0
    for message in messages:
        turn = _turn(message)
        if message.calls:
            waiting = [(f"{number + i:09d}", call.name) for i, call in enumerate(message.calls)]
            number += len(message.calls)
            turn["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": form.turn_arguments(call.arguments)},
                }
                for (call_id, _), call in zip(waiting, message.calls, strict=True)
            ]
        elif message.role == "tool" and waiting:
            turn["tool_call_id"], turn["name"] = waiting.pop(0)
        turns.append(turn)
    return turns


def _is_trained(message: Message) -> bool:
    return message.role == "assistant" and message.trained


def _proven(beginning: str, text: str) -> str:
    """`beginning`, if the text goes on from it."""
    if text.startswith(beginning):
        return beginning
    at = in_common(beginning, text)
    raise NotProven(
        f"The chat template changes earlier text when a turn is added, so the answer cannot be told apart: {beginning[at : at + 40]!r} became {text[at : at + 40]!r}; use another template."
    )


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
