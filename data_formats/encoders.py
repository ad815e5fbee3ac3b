"""The three ways from examples to token rows: documents, dialogues and pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from .examples import Completion, Conversation, Document, Kind, Message, Overlong, Pair, Prompt
from .overlong import (
    TOO_LONG,
    PairRow,
    PromptRow,
    TokenRow,
    fit_pairs,
    fit_rows,
    refuse_many,
    refuse_many_prompts,
)
from .render import ChatTemplate, Rendered, end_token, render_plain, start_token
from .report import Tally
from .table import TokenTable
from .tokens import Tokenized, tokenize, tokenize_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # examples tokenised in one call


@dataclass(frozen=True)
class Work:
    """What all rows of one table share."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    overlong: Overlong
    tally: Tally

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate.of(self.tokenizer)  # on first use: plain texts need none

    @property
    def has_template(self) -> bool:
        """Plain prompts and answers of a chat model are a turn each: without the template it would not be asked so."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def start(self) -> str:
        return start_token(self.tokenizer)

    @cached_property
    def end(self) -> str:
        return end_token(self.tokenizer)

    def plain(self, text: str) -> str:
        """A plain text with the start token once."""
        return self.start + text.removeprefix(self.start)


def encode_documents(work: Work, documents: Sequence[Document]) -> TokenTable:
    rows = []
    for batch in _batches(documents):
        texts = [work.plain(one.text).removesuffix(work.end) + work.end for one in batch]
        for one, ids in zip(batch, tokenize_documents(work.tokenizer, texts), strict=True):
            rows.append(TokenRow(one.place, ids, ((0, len(ids)),)))
    return _row_table(work, rows)


def encode_dialogues(work: Work, dialogues: Sequence[Conversation | Completion]) -> TokenTable:
    rows: list[TokenRow] = []
    for batch in _batches(dialogues):
        rendered = [(one.place, each) for one in batch for each in _renderings(work, one)]
        places, texts = [place for place, _ in rendered], [text for _, text in rendered]
        tokens = tokenize(work.tokenizer, texts, places)
        rows += [TokenRow(place, one.ids, one.spans) for place, one in zip(places, tokens, strict=True)]
    return _row_table(work, rows)


def encode_pairs(work: Work, pairs: Sequence[Pair]) -> TokenTable:
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if same := len(pairs) - len(different):
        work.tally.identical_pairs = same
        work.tally.dropped["chosen equal to rejected"] = same
    rows: list[PairRow] = []
    for batch in _batches(different):
        texts = [text for pair in batch for text in _both_answers(work, pair)]
        tokens = tokenize(work.tokenizer, texts, [pair.place for pair in batch for _ in range(2)])
        rows += map(_pair_row, batch, tokens[::2], tokens[1::2])
    return _pair_table(work, rows)


def encode_prompts(work: Work, prompts: Sequence[Prompt]) -> TokenTable:
    """Prompts up to where the model starts to answer, and beside them what a reward function is given."""
    rows: list[PromptRow] = []
    for batch in _batches(prompts):
        texts = [_prompt_text(work, one) for one in batch]
        for one, ids in zip(batch, tokenize_documents(work.tokenizer, texts), strict=True):
            rows.append(PromptRow(one.place, ids, one.prompt, one.columns))
    work.tally.lengths = [row.length for row in rows]
    if work.overlong == "error":
        refuse_many_prompts(rows, work.max_length)
    kept = [row for row in rows if row.length <= work.max_length]
    if dropped := len(rows) - len(kept):
        work.tally.dropped[TOO_LONG] = dropped
    return TokenTable.of({"prompt_ids": (row.ids for row in kept)}, records=[row.record() for row in kept])


ENCODERS: Mapping[Kind, Callable[[Work, Sequence[Any]], TokenTable]] = {
    "text": encode_documents,
    "conversation": encode_dialogues,
    "preference": encode_pairs,
    "prompt": encode_prompts,
}


def _renderings(work: Work, example: Conversation | Completion) -> list[Rendered]:
    if isinstance(example, Completion):
        if not work.has_template:
            work.tally.plain += 1
            return [render_plain(work.plain(example.prompt), example.completion, work.end)]
        work.tally.put_into_template += 1
        turns = Message("user", example.prompt), Message("assistant", example.completion)
        example = Conversation(example.place, turns)
    _look_for_system(work, example.messages)
    with _at(example.place):
        rendered = work.template.renderings(example.messages)
    work.tally.stops_added += any(one.stop_added for one in rendered)
    if len(rendered) > 1:
        work.tally.expanded += 1
        work.tally.expanded_rows += len(rendered)
    return rendered


def _prompt_text(work: Work, example: Prompt) -> str:
    prompt = example.prompt
    if isinstance(prompt, str):
        if not work.has_template:
            work.tally.plain += 1
            return work.plain(prompt)
        work.tally.put_into_template += 1
        prompt = (Message("user", prompt),)
    _look_for_system(work, prompt)
    with _at(example.place):
        return work.template.prompt(prompt)


def _both_answers(work: Work, pair: Pair) -> list[Rendered]:
    answers = (pair.chosen, pair.rejected)
    prompt = pair.prompt
    if isinstance(prompt, str):
        if not work.has_template:
            work.tally.plain += 1
            return [render_plain(work.plain(prompt), answer, work.end) for answer in answers]
        work.tally.put_into_template += 1
        prompt = (Message("user", prompt),)
    _look_for_system(work, prompt)
    with _at(pair.place):
        both = [work.template.render_last((*prompt, Message("assistant", answer))) for answer in answers]
    work.tally.stops_added += any(one.stop_added for one in both)
    return both


def _look_for_system(work: Work, messages: Sequence[Message]) -> None:
    if work.tally.injected_text is None and messages[0].role != "system":
        work.tally.injected_text = work.template.injected_system()


def _pair_row(pair: Pair, chosen: Tokenized, rejected: Tokenized) -> PairRow:
    (chosen_start, chosen_end), (rejected_start, rejected_end) = chosen.spans[0], rejected.spans[0]
    prompt = chosen.ids[:chosen_start]
    if prompt != rejected.ids[:rejected_start]:
        raise DataError(
            f"{pair.place}: the prompt becomes other tokens before the chosen than before the rejected answer; change the white space where the answers begin."
        )
    answers = chosen.ids[chosen_start:chosen_end], rejected.ids[rejected_start:rejected_end]
    return PairRow(pair.place, prompt, *answers, pair.margin)


def _row_table(work: Work, rows: Sequence[TokenRow]) -> TokenTable:
    work.tally.lengths = [row.length for row in rows]
    if work.overlong == "error":
        refuse_many(rows, work.max_length, "'drop', 'truncate' or 'split'")
    kept = list(fit_rows(rows, work.max_length, work.overlong, work.tally))
    return TokenTable.of({"input_ids": (row.ids for row in kept), "labels": (row.labels() for row in kept)})


def _pair_table(work: Work, rows: Sequence[PairRow]) -> TokenTable:
    work.tally.lengths = [row.length for row in rows]
    work.tally.longer_chosen = sum(len(row.chosen) > len(row.rejected) for row in rows)
    if work.overlong == "error":
        refuse_many(rows, work.max_length, "'drop' or 'truncate'")
    kept = list(fit_pairs(rows, work.max_length, work.overlong, work.tally))
    margins = [row.margin for row in kept if row.margin is not None]
    columns = {
        "prompt_ids": [row.prompt for row in kept],
        "chosen_ids": [row.chosen for row in kept],
        "rejected_ids": [row.rejected for row in kept],
    }
    return TokenTable.of(columns, margins if margins else None)


def _batches(examples: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (examples[at : at + BATCH] for at in range(0, len(examples), BATCH))


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Errors inside are about this row."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
