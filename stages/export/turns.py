"""How a chat template writes its turns, found by rendering; and the same as a template of Ollama's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
_SYSTEM, _FIRST, _ANSWER, _SECOND = "zqsystem", "zqfirst", "zqanswer", "zqsecond"


@dataclass(frozen=True)
class Turns:
    """A template that writes every turn as text before, content, text behind."""

    opening: str  # in front of everything, as a BOS token
    injected: str  # what stands there when a dialogue has no system turn
    around: Mapping[str, tuple[str, str]]  # role -> (before, behind)
    answer: str  # what asks for the answer

    @classmethod
    def of(cls, tokenizer: Any) -> Turns | None:
        """None for a template that is more than that, or that takes no system turn; proven on other dialogues."""
        from jinja2 import TemplateError

        def written(*messages: Message, asks: bool = False) -> str:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))

        if not tokenizer.chat_template:
            return None
        try:
            found = _derived(tokenizer, written)
            if found is None or any(found.render(one) != written(*one, asks=True) for one in _dialogues()):
                return None
        except TemplateError:
            return None
        return found

    def render(self, messages: Sequence[Message]) -> str:
        """As the template does, with the question for an answer behind it."""
        begin = "" if messages[0]["role"] == "system" else self.injected
        turns = (
            self.around[one["role"]][0] + one["content"] + self.around[one["role"]][1] for one in messages
        )
        return self.opening + begin + "".join(turns) + self.answer

    def as_go(self, *, writes_opening: bool) -> str | None:
        """A Go template for Ollama; None where the texts hold what Go or a Modelfile would read as their own.

        writes_opening: whether the engine puts no BOS token there itself.
        """
        turns = ""
        for role in ROLES:
            before, behind = self.around[role]
            test = "if" if role == ROLES[0] else "else if"
            turns += f'{{{{ {test} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}'
        literal = [
            self.opening,
            self.injected,
            self.answer,
            *(text for pair in self.around.values() for text in pair),
        ]
        if any(sign in text for text in literal for sign in ("{{", "}}", '"""')):
            return None
        # No trim markers: the line breaks of the turns count.
        default = f'{{{{ if .Messages }}}}{{{{ if ne (index .Messages 0).Role "system" }}}}{self.injected}{{{{ end }}}}{{{{ end }}}}'
        return (
            (self.opening if writes_opening else "")
            + (default if self.injected else "")
            + f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}"
            + self.answer
        )


def _derived(tokenizer: Any, written: Any) -> Turns | None:
    """From four renderings: what stands between contents that no template writes itself."""
    system, first = {"role": "system", "content": _SYSTEM}, {"role": "user", "content": _FIRST}
    answer, second = {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _SECOND}
    closed, asking = written(system, first, answer, second), written(system, first, answer, second, asks=True)
    if not asking.startswith(closed):
        return None
    parts = _between(closed, _SYSTEM, _FIRST, _ANSWER, _SECOND)
    ends = _between(written(system, first, answer), _SYSTEM, _FIRST, _ANSWER)
    alone = _between(written(first), _FIRST)
    if parts is None or ends is None or alone is None:
        return None
    behind_user, behind_answer = parts[4], ends[3]
    if not (parts[2].startswith(behind_user) and parts[3].startswith(behind_answer)):
        return None
    before_user = parts[3].removeprefix(behind_answer)
    bos = tokenizer.bos_token or ""
    # ChatML's <|im_start|> may be called BOS, and begins turns then, not dialogues.
    opening = bos if parts[0].startswith(bos) and bos not in "".join(parts[1:]) else ""
    if not (parts[1].endswith(before_user) and alone[0].endswith(before_user)):
        return None
    around = {
        "system": (parts[0].removeprefix(opening), parts[1].removesuffix(before_user)),
        "user": (before_user, behind_user),
        "assistant": (parts[2].removeprefix(behind_user), behind_answer),
    }
    injected = alone[0].removeprefix(opening).removesuffix(before_user)
    return Turns(opening, injected, around, asking.removeprefix(closed))


def _between(text: str, *contents: str) -> list[str] | None:
    """The texts around the contents, one more than there are; None where one is missing, twice, or out of order."""
    found, rest = [], text
    for content in contents:
        before, there, rest = rest.partition(content)
        if not there or content in rest:
            return None
        found.append(before)
    return [*found, rest]


def _dialogues() -> list[list[Message]]:
    def said(role: str, content: str) -> Message:
        return {"role": role, "content": content}

    ask, reply = said("user", "Name a river."), said("assistant", "The Rhine.\nOr the Rhone.")
    system = said("system", "Be brief. Say {x}.")
    return [
        [ask],
        [system, ask],
        [ask, reply, said("user", "Another one?")],
        [system, ask, reply, said("user", "More?"), said("assistant", "The Main."), said("user", "Good.")],
    ]


def stop_tokens(model: Any, tokenizer: Any, turns: Turns | None) -> list[int]:
    """Every token that ends an answer: of the model's generation config, the tokenizer, and behind the template's answers."""
    from ..online.sampling import stop_ids

    found = set(stop_ids(model, tokenizer)) if model.can_generate() else {tokenizer.eos_token_id} - {None}
    if turns is not None:
        added = tokenizer.added_tokens_decoder.items()
        special = {one for one, token in added if token.special}
        behind = tokenizer(turns.around["assistant"][1], add_special_tokens=False)["input_ids"]
        found |= {int(one) for one in behind[:1] if one in special}
    return sorted(found)
