"""What a tokenizer's chat template can do and how it ends a turn, found by trying."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from ..examples import Message, Role
from .literals import Literals, learn, stop_end
from .purity import only_writes
from .time_limit import SECONDS, TookTooLong, limited
from .tool_template import ASKED, PROBE_TOOL, ToolForm, Turn, Turns, find_form, probe_dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
PROBE = "\N{CURRENCY SIGN}"  # no template writes it by itself


@dataclass(frozen=True, slots=True)
class Ending:
    """What a template writes behind the last answer, from the first special token on."""

    text: str
    stop: int  # so many characters of it are trained


@dataclass(frozen=True)
class Ability:
    """What a tokenizer's template can do, found by trying; each is tried when a dialogue first asks for it."""

    tokenizer: PreTrainedTokenizerBase
    stops_at_end: re.Pattern[str]  # the special tokens at the end of a text; group "stop" is the first

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_compiled"}

    @cached_property
    def tools(self) -> ToolForm:
        return find_form(str(self.tokenizer.get_chat_template(tools=[PROBE_TOOL])), self.apply)

    @cached_property
    def shows_reasoning(self) -> bool:
        return PROBE in self._tried(self.template, ASKED, _answer("Yes", reasoning_content=PROBE))

    @cached_property
    def shows_reasoning_of_calls(self) -> bool:
        turns = probe_dialogue(self.tools, reasoning_content=PROBE)[:2]
        return PROBE in self._tried(self.tools.template, *turns)

    @cached_property
    def shows_content(self) -> bool:
        answered = self._tried(self.template, ASKED, _answer(PROBE))
        return PROBE in answered or not answered  # not answered: refused, as the dialogue itself will be

    @cached_property
    def empty_thought(self) -> str:
        """What the template writes by itself between the prompt and an answer without reasoning, if it is a thought."""
        prompt = self._tried(self.template, ASKED, for_answer=True)
        answered = self._tried(self.template, ASKED, _answer(PROBE))
        before = answered.partition(PROBE)[0].removeprefix(prompt)
        return before if EMPTY_THOUGHT.fullmatch(before) else ""

    @cached_property
    def ending(self) -> Ending | None:
        return self._ending(self.template, [ASKED, _answer(PROBE), ASKED])

    @cached_property
    def ending_of_calls(self) -> Ending | None:
        return self._ending(self.tools.template, probe_dialogue(self.tools, where=PROBE))

    def _ending(self, template: str, turns: Sequence[Turn]) -> Ending | None:
        """Of the last turn but one, by what is written when it is the last; None where it ends with no special token."""
        last, going_on = (self._tried(template, *some).rpartition(PROBE)[2] for some in (turns[:-1], turns))
        found, stop = self.stops_at_end.search(last), stop_end(last, going_on, self.stops_at_end)
        return Ending(last[found.start() :], stop - found.start()) if found and stop else None

    @cached_property
    def literals(self) -> Literals | None:
        def apply(messages: Sequence[Message], for_answer: bool) -> str:
            turns = [{"role": turn.role, "content": turn.content} for turn in messages]
            return self.apply(self.template, turns, for_answer=for_answer)

        return learn(apply, self.stops_at_end)

    @cached_property
    def _compiled(self) -> Any:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(self.template)

    def written_plainly(self, messages: Sequence[Message]) -> tuple[str, tuple[tuple[int, int], ...]] | None:
        """(a dialogue of texts alone, the characters of its trained answers), proven; None where another way is needed.

        Proven: the template's own render is the same text; where the template only writes its contents down, the
        render of one dialogue of these roles.
        """
        written = self.literals.written(messages) if self.literals else None
        if written is None:
            return None
        roles = tuple(message.role for message in messages)
        if not self._only_writes:
            return written if self._rendered(messages) == written[0] else None
        if roles not in self._proven_roles:
            marks = [Message(role, f"{PROBE}{i}{PROBE}") for i, role in enumerate(roles)]
            composed = self.literals.written(marks) if self.literals else None
            self._proven_roles[roles] = composed is not None and self._rendered(marks) == composed[0]
        return written if self._proven_roles[roles] else None

    @cached_property
    def _proven_roles(self) -> dict[tuple[Role, ...], bool]:
        return {}

    @cached_property
    def _only_writes(self) -> bool:
        return only_writes(self._compiled.environment.parse(self.template))

    def _rendered(self, messages: Sequence[Message]) -> str:
        """By the template that apply_chat_template compiled, without the copies that it makes of every message.

        The literals that this is compared with were learned from apply_chat_template itself. Empty where the template
        refuses.
        """
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            with limited():
                return str(
                    self._compiled.render(messages=turns, add_generation_prompt=False, **self._special_tokens)
                )
        except TookTooLong:
            raise _too_long() from None
        except _faults():
            return ""

    @cached_property
    def _special_tokens(self) -> dict[str, Any]:
        return {**self.tokenizer.special_tokens_map, "tools": None, "documents": None}

    @property
    def template(self) -> str:
        return str(self.tokenizer.get_chat_template())  # of several, the one called "default"

    def notes(self) -> list[str]:
        """What was done about a template that cannot write something, of what the dialogues so far have asked for."""
        asked_for = vars(self)  # the cached properties that were looked at
        form = asked_for.get("tools")
        notes = []
        if form is not None and form.added:
            notes.append(
                "the chat template knows no tools: they are declared in the system prompt, and calls and results written as JSON and text in <tool_call> and <tool_response> tags"
            )
        if form is not None and form.arguments == "text":
            notes.append("the chat template takes the arguments of calls as JSON text")
        if asked_for.get("shows_reasoning") is False or asked_for.get("shows_reasoning_of_calls") is False:
            notes.append(
                "the chat template shows no reasoning: it is written as <think> in front of the answer"
            )
        return notes

    def _tried(self, template: str, *turns: Turn, for_answer: bool = False) -> str:
        """Empty where the template refuses the turns."""
        tools = [PROBE_TOOL] if any("tool_calls" in turn for turn in turns) else None
        try:
            return self.apply(template, turns, tools, for_answer=for_answer)
        except DataError:
            return ""

    def apply(
        self, template: str, turns: Turns, tools: Sequence[Any] | None = None, *, for_answer: bool = False
    ) -> str:
        """The only call of a chat template; in transformers' sandbox, and for a time that is limited."""
        try:
            with limited():
                text = self.tokenizer.apply_chat_template(
                    [dict(turn) for turn in turns],
                    tools=list(tools) if tools else None,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=for_answer,
                )
        except TookTooLong:
            raise _too_long() from None
        except _faults() as error:
            roles = ", ".join(turn["role"] for turn in turns)
            said = str(error).partition("\n")[0][:300]
            raise DataError(f"The chat template refuses a dialogue of {roles}: {said}") from None
        return str(text)


def _faults() -> tuple[type[Exception], ...]:
    """What a template can raise, apart from its own refusals: `{{ 1 / 0 }}`, `{{ [][1] }}`, a macro without an end."""
    from jinja2 import TemplateError

    return (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
        MemoryError,
    )


def _too_long() -> DataError:
    return DataError(
        f"The chat template takes more than {SECONDS:.0f} s to write one dialogue; look at tokenizer.chat_template, and "
        "use another."
    )


def _answer(content: str, **more: str) -> Turn:
    return {"role": "assistant", "content": content, **more}
