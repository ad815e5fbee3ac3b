"""The ways from examples to token rows: documents, dialogues, pairs, judged answers and prompts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError

from .examples import Completion, Conversation, Document, Judged, Kind, Message, Overlong, Pair, Prompt
from .overlong import (
    TOO_LONG,
    AnswersRow,
    PromptRow,
    TokenRow,
    fit_answers,
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
    import numpy as np

    rows: list[AnswersRow] = []
    for batch in _batches(_different(work, pairs)):
        answers = [[pair.chosen, pair.rejected] for pair in batch]
        for pair, (prompt, (chosen, rejected)) in zip(batch, _answered(work, batch, answers), strict=True):
            rows.append(AnswersRow(pair.place, prompt, (chosen, rejected), pair.margin))
    work.tally.longer_chosen = sum(len(row.answers[0]) > len(row.answers[1]) for row in rows)
    kept = _fit_answers(work, rows)
    margins = [row.number for row in kept if row.number is not None]
    columns = {
        "prompt_ids": [row.prompt for row in kept],
        "chosen_ids": [row.answers[0] for row in kept],
        "rejected_ids": [row.answers[1] for row in kept],
    }
    return TokenTable.of(columns, {"margin": np.array(margins, np.float32)} if margins else None)


def encode_judged(work: Work, examples: Sequence[Judged | Pair]) -> TokenTable:
    """Answers with verdicts; a pair is two of them."""
    import numpy as np

    rows: list[AnswersRow] = []
    for batch in _batches(_different(work, examples)):
        answers = [[one.chosen, one.rejected] if isinstance(one, Pair) else [one.answer] for one in batch]
        for one, (prompt, ids) in zip(batch, _answered(work, batch, answers), strict=True):
            verdicts = (True, False) if isinstance(one, Pair) else (one.desirable,)
            rows += [
                AnswersRow(one.place, prompt, (answer,), float(verdict))
                for answer, verdict in zip(ids, verdicts, strict=True)
            ]
    kept = _fit_answers(work, rows)
    columns = {
        "prompt_ids": [row.prompt for row in kept],
        "completion_ids": [row.answers[0] for row in kept],
    }
    return TokenTable.of(columns, {"label": np.array([row.number for row in kept], bool)})


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
    "unpaired": encode_judged,
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


def _different(work: Work, examples: Sequence[Any]) -> list[Any]:
    """The examples without the pairs whose answers are the same."""
    different = [one for one in examples if not (isinstance(one, Pair) and one.chosen == one.rejected)]
    if same := len(examples) - len(different):
        work.tally.identical_pairs = same
        work.tally.dropped["chosen equal to rejected"] = same
    return different


def _answered(
    work: Work, examples: Sequence[Pair | Judged], answers: Sequence[Sequence[str]]
) -> Iterator[tuple[array[int], list[array[int]]]]:
    """(tokens of the prompt, tokens of each of its answers) of every example."""
    rendered = [_renderings_of(work, one, texts) for one, texts in zip(examples, answers, strict=True)]
    places = [one.place for one, texts in zip(examples, answers, strict=True) for _ in texts]
    tokens = iter(tokenize(work.tokenizer, [text for each in rendered for text in each], places))
    for one, each in zip(examples, rendered, strict=True):
        yield _one_prompt(one.place, [next(tokens) for _ in each])


def _renderings_of(work: Work, example: Pair | Judged, answers: Sequence[str]) -> list[Rendered]:
    prompt = example.prompt
    if isinstance(prompt, str):
        if not work.has_template:
            work.tally.plain += 1
            return [render_plain(work.plain(prompt), answer, work.end) for answer in answers]
        work.tally.put_into_template += 1
        prompt = (Message("user", prompt),)
    _look_for_system(work, prompt)
    with _at(example.place):
        rendered = [work.template.render_last((*prompt, Message("assistant", answer))) for answer in answers]
    work.tally.stops_added += any(one.stop_added for one in rendered)
    return rendered


def _look_for_system(work: Work, messages: Sequence[Message]) -> None:
    if work.tally.injected_text is None and messages[0].role != "system":
        work.tally.injected_text = work.template.injected_system()


def _one_prompt(place: str, tokens: Sequence[Tokenized]) -> tuple[array[int], list[array[int]]]:
    spans = [one.spans[0] for one in tokens]
    prompts = [one.ids[:start] for one, (start, _) in zip(tokens, spans, strict=True)]
    if prompts[0] != prompts[-1]:
        raise DataError(
            f"{place}: the prompt becomes other tokens before the chosen than before the rejected answer; change the white space where the answers begin."
        )
    return prompts[0], [one.ids[start:end] for one, (start, end) in zip(tokens, spans, strict=True)]


def _row_table(work: Work, rows: Sequence[TokenRow]) -> TokenTable:
    work.tally.lengths = [row.length for row in rows]
    if work.overlong == "error":
        refuse_many(rows, work.max_length, "'drop', 'truncate' or 'split'")
    kept = list(fit_rows(rows, work.max_length, work.overlong, work.tally))
    return TokenTable.of({"input_ids": (row.ids for row in kept), "labels": (row.labels() for row in kept)})


def _fit_answers(work: Work, rows: Sequence[AnswersRow]) -> list[AnswersRow]:
    work.tally.lengths = [row.length for row in rows]
    if work.overlong == "error":
        refuse_many(rows, work.max_length, "'drop' or 'truncate'")
    return list(fit_answers(rows, work.max_length, work.overlong, work.tally))


def _batches(examples: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (examples[at : at + BATCH] for at in range(0, len(examples), BATCH))


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Errors inside are about this row."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
