"""The ways from examples to token rows: documents, dialogues, pairs, judged answers, prompts and labelled texts.

Each kind is two steps, so that tokenising one batch can run beside the rendering of the next: an example becomes
texts with spans, and their tokens become rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.errors import DataError

from ..examples import (
    Completion,
    Conversation,
    Document,
    Example,
    Judged,
    Kind,
    Labelled,
    Message,
    Pair,
    Prompt,
    Tagged,
)
from ..rendering.render import ChatTemplate, Rendered, end_token, render_plain, start_token
from .table import RECORDS, UNTRAINED, Ragged
from .tagging import tag_tokens
from .text_encoder import TextEncoder, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What happened to a row on its way, one bit each.
PLAIN, TEMPLATED, STOP_ADDED, EXPANDED, IDENTICAL, CROSSED, UNTAGGED = 1, 2, 4, 8, 16, 32, 64


class RowRefused(DataError):
    """The chat template cannot write this example; the text begins with its place."""


Around = tuple[Sequence[int], Sequence[int]]  # token ids in front of a text and behind it


@dataclass
class Work:
    """What all rows of one table share, and what is learned about the template on the way."""

    tokenizer: PreTrainedTokenizerBase
    injected_text: str | None = None  # None: no row without a system turn was seen
    to_ids: TextEncoder | None = None  # None: no text was encoded

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate.of(self.tokenizer)  # on first use: plain texts need none

    @cached_property
    def has_template(self) -> bool:
        """Plain prompts and answers of a chat model are a turn each: without the template it would not be asked so."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def start(self) -> str:
        return start_token(self.tokenizer)

    @cached_property
    def end(self) -> str:
        return end_token(self.tokenizer)

    @cached_property
    def around(self) -> Around:
        """What the tokenizer puts around a text: [CLS] and [SEP] of BERT; at the end an end token, if there is one."""
        mask = self.tokenizer("a", return_special_tokens_mask=True)
        ids, special = mask["input_ids"], mask["special_tokens_mask"]
        inside = [i for i, one in enumerate(special) if not one]
        before, behind = ids[: inside[0]], ids[inside[-1] + 1 :]
        eos = self.tokenizer.eos_token_id
        return before, behind or ([] if eos is None else [eos])

    def plain(self, text: str) -> str:
        """A plain text with the start token once."""
        return self.start + text.removeprefix(self.start)

    def notes(self) -> list[str]:
        """What was done about a template that cannot write what the rows hold."""
        return self.template.ability.notes() if "template" in vars(self) else []

    def encoder(self, sample: Sequence[str]) -> TextEncoder:
        """What turns texts into ids; on first use it is proven on `sample`."""
        self.to_ids = self.to_ids or TextEncoder.of(self.tokenizer, sample)
        return self.to_ids

    def look_for_system(self, messages: Sequence[Message]) -> None:
        if self.injected_text is None and messages[0].role != "system":
            self.injected_text = self.template.injected_system()


@dataclass(slots=True)
class Texts:
    """An example as texts, not yet tokens."""

    example: Example
    rendered: list[Rendered]
    flags: int = 0
    around: Around = ((), ())  # of each of its texts
    tags: Sequence[int] = ()  # of each token


class Rows(NamedTuple):
    """Rows of a batch before they are fitted into max_length."""

    columns: Mapping[str, tuple[Any, Any]]  # (all values, length of each row) of each column of the encoder
    owners: Sequence[int]  # whose row each is: its place in the batch
    values: Sequence[float]  # the pair's margin; 1 for a good answer; the only label


@dataclass(frozen=True)
class Encoder:
    """How examples of one kind become rows."""

    columns: Mapping[str, str]  # dtype by name
    render: Callable[[Work, Any], Texts]
    rows: Callable[[Sequence[Texts], Tokens], Rows]
    lengths: tuple[str, ...] = field(default=("ids",))  # the columns whose lengths a row's length is made of


def _render_document(work: Work, example: Document) -> Texts:
    text = work.plain(example.text).removesuffix(work.end) + work.end
    return Texts(example, [Rendered(text, ((0, len(text)),))])


def _render_dialogue(work: Work, example: Conversation | Completion) -> Texts:
    if isinstance(example, Completion):
        if not work.has_template:
            rendered = render_plain(work.plain(example.prompt), example.completion, work.end)
            return Texts(example, [rendered], PLAIN)
        turns = Message("user", example.prompt), Message("assistant", example.completion)
        texts = _render_dialogue(work, Conversation(example.place, turns))
        return Texts(example, texts.rendered, texts.flags | TEMPLATED)
    work.look_for_system(example.messages)
    try:  # not `with _at(...)`: that takes a microsecond for each dialogue
        rendered_all = work.template.with_tools(example.tools).renderings(example.messages)
    except DataError as error:
        raise _refused(example.place, error) from None
    flags = STOP_ADDED * any(one.stop_added for one in rendered_all) | EXPANDED * (len(rendered_all) > 1)
    return Texts(example, rendered_all, flags)


def _token_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    owners = [i for i, texts in enumerate(batch) for _ in texts.rendered]
    return Rows({"ids": _whole(tokens.ids), "spans": _whole(tokens.spans)}, owners, [0.0] * len(owners))


def _whole(column: Ragged) -> tuple[Any, Any]:
    return column.values, column.lengths


def _written(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Columns of rows that were made one by one."""
    columns = {name: Ragged.of(row[name] for row in rows) for name in (rows[0] if rows else ())}
    return {name: _whole(column) for name, column in columns.items()}


def _render_answers(work: Work, example: Pair | Judged) -> Texts:
    answers = [example.chosen, example.rejected] if isinstance(example, Pair) else [example.answer]
    prompt, flags = example.prompt, IDENTICAL * (len(set(answers)) < len(answers))
    if isinstance(prompt, str):
        if not work.has_template:
            plain = [render_plain(work.plain(prompt), answer, work.end) for answer in answers]
            return Texts(example, plain, flags | PLAIN)
        flags |= TEMPLATED
        prompt = (Message("user", prompt),)
    work.look_for_system(prompt)
    with _at(example.place):
        rendered = [work.template.render_last((*prompt, Message("assistant", answer))) for answer in answers]
    return Texts(example, rendered, flags | STOP_ADDED * any(one.stop_added for one in rendered))


def _pair_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    rows, margins = [], []
    for (prompt, (chosen, rejected)), texts in zip(_answered(batch, tokens), batch, strict=True):
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
        margin = texts.example.margin if isinstance(texts.example, Pair) else None
        margins.append(float("nan") if margin is None else margin)
    return Rows(_written(rows), range(len(rows)), margins)


def _judged_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    """A pair is a good answer and a bad one."""
    rows, owners, verdicts = [], [], list[float]()
    for i, ((prompt, answers), texts) in enumerate(zip(_answered(batch, tokens), batch, strict=True)):
        example = texts.example
        verdicts += (float(example.desirable),) if isinstance(example, Judged) else (1.0, 0.0)
        rows += [{"prompt_ids": prompt, "completion_ids": answer} for answer in answers]
        owners += [i] * len(answers)
    return Rows(_written(rows), owners, verdicts)


def _answered(batch: Sequence[Texts], tokens: Tokens) -> Iterator[tuple[Any, list[Any]]]:
    """(tokens of the prompt, tokens of each of its answers) of each example."""
    row = 0
    for texts in batch:
        answers, prompts = [], []
        for _ in texts.rendered:
            start, end = tokens.spans[row].tolist()
            ids = tokens.ids[row]
            prompts.append(ids[:start])
            answers.append(ids[start:end])
            row += 1
        if prompts[0].tolist() != prompts[-1].tolist():
            raise DataError(
                f"{texts.example.place}: the prompt becomes other tokens before the chosen than before the rejected answer; change the white space where the answers begin."
            )
        yield prompts[0], answers


def _render_prompt(work: Work, example: Prompt) -> Texts:
    prompt, flags = example.prompt, 0
    if isinstance(prompt, str):
        if not work.has_template:
            return Texts(example, [Rendered(work.plain(prompt), ())], PLAIN)
        flags = TEMPLATED
        prompt = (Message("user", prompt),)
    work.look_for_system(prompt)
    with _at(example.place):
        text = work.template.with_tools(example.tools).prompt(prompt)
    return Texts(example, [Rendered(text, ())], flags)


def _prompt_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    """Up to where the model starts to answer, and beside it what a reward function is given."""
    lines = [_record(texts.example) for texts in batch]
    records = (b"".join(lines), [len(line) for line in lines])
    columns = {"prompt_ids": _whole(tokens.ids), RECORDS: records}
    return Rows(columns, range(len(batch)), [0.0] * len(batch))


def _record(example: Example) -> bytes:
    assert isinstance(example, Prompt)
    record = {"prompt": _as_written(example.prompt), "columns": dict(example.columns)}
    try:
        return json.dumps(record).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{example.place}: a column cannot be written as JSON ({error}).") from None


def _as_written(prompt: Sequence[Message] | str) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [
        {"role": turn.role, "content": turn.content}
        | ({"tool_calls": [call.as_dict() for call in turn.calls]} if turn.calls else {})
        for turn in prompt
    ]


def _render_labelled(work: Work, example: Labelled) -> Texts:
    return Texts(example, [Rendered(example.text, ())], around=work.around)


def _labelled_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    examples = [texts.example for texts in batch]
    labels = [example.labels for example in examples if isinstance(example, Labelled)]
    columns = {"ids": _whole(_surrounded(batch, tokens.ids)), "labels": _whole(Ragged.of(labels))}
    return Rows(columns, range(len(batch)), [0.0] * len(batch))


def _surrounded(batch: Sequence[Texts], ids: Ragged) -> Ragged:
    """Each text's tokens between what stands around them."""
    arounds = [texts.around for texts in batch for _ in texts.rendered]
    return Ragged.of([*front, *ids[i].tolist(), *end] for i, (front, end) in enumerate(arounds))


def _render_tagged(work: Work, example: Tagged) -> Texts:
    if not work.tokenizer.is_fast:
        raise DataError(
            f"The tokenizer of '{work.tokenizer.name_or_path}' gives no offsets, so spans cannot be found in its tokens; use its fast version (tokenizer.json)."
        )
    encoded = work.tokenizer(
        example.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    tags, crossed, untagged = tag_tokens(example.text, encoded["offset_mapping"], example.spans)
    front, end = work.around
    every = [UNTRAINED] * len(front) + tags + [UNTRAINED] * len(end)
    flags = CROSSED * crossed | UNTAGGED * untagged
    return Texts(example, [Rendered(example.text, ())], flags, around=work.around, tags=every)


def _tagged_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    columns = {
        "ids": _whole(_surrounded(batch, tokens.ids)),
        "tags": _whole(Ragged.of(texts.tags for texts in batch)),
    }
    return Rows(columns, range(len(batch)), [0.0] * len(batch))


def _render_exchange(work: Work, example: Conversation | Completion) -> Texts:
    """Without a chat template: the texts before the answer, with blank lines between them, and the answer."""
    if isinstance(example, Completion):
        asked, answer = example.prompt, example.completion
    else:
        *before, last = example.messages
        answers = sum(turn.role == "assistant" for turn in example.messages)
        if example.tools or last.role != "assistant" or answers != 1 or last.calls or last.reasoning:
            raise RowRefused(
                f"{example.place}: a sequence-to-sequence model takes texts and one answer to them, and the row has "
                f"{answers} answers{' and tools' if example.tools else ''}; split it, or train SFT on it."
            )
        asked, answer = "\n\n".join(turn.content for turn in before), last.content
    return Texts(example, [Rendered(asked, ()), Rendered(answer, ())], around=work.around)


def _exchange_rows(batch: Sequence[Texts], tokens: Tokens) -> Rows:
    both = _surrounded(batch, tokens.ids)
    columns = {
        name: _whole(Ragged.of(both[i] for i in range(side, len(both), 2)))
        for side, name in enumerate(("prompt_ids", "completion_ids"))
    }
    return Rows(columns, range(len(batch)), [0.0] * len(batch))


_DIALOGUES = {"ids": "int32", "spans": "int32"}
ENCODERS: Mapping[Kind, Encoder] = {
    "text": Encoder(_DIALOGUES, _render_document, _token_rows),
    "conversation": Encoder(_DIALOGUES, _render_dialogue, _token_rows),
    "preference": Encoder(
        {"prompt_ids": "int32", "chosen_ids": "int32", "rejected_ids": "int32"},
        _render_answers,
        _pair_rows,
        ("prompt_ids", "chosen_ids", "rejected_ids"),
    ),
    "unpaired": Encoder(
        {"prompt_ids": "int32", "completion_ids": "int32"},
        _render_answers,
        _judged_rows,
        ("prompt_ids", "completion_ids"),
    ),
    "prompt": Encoder(
        {"prompt_ids": "int32", RECORDS: "uint8"}, _render_prompt, _prompt_rows, ("prompt_ids",)
    ),
    "labelled": Encoder({"ids": "int32", "labels": "int32"}, _render_labelled, _labelled_rows),
    "tagged": Encoder({"ids": "int32", "tags": "int32"}, _render_tagged, _tagged_rows),
    "exchange": Encoder(
        {"prompt_ids": "int32", "completion_ids": "int32"},
        _render_exchange,
        _exchange_rows,
        ("prompt_ids", "completion_ids"),
    ),
}


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Errors inside are about this row."""
    try:
        yield
    except DataError as error:
        raise _refused(place, error) from None


def _refused(place: str, error: DataError) -> RowRefused:
    return RowRefused(f"{place}: {error}")
