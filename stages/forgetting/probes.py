"""The packaged texts and questions: general knowledge in plain English and Chinese, written for this library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import limits

if TYPE_CHECKING:
    from .outputs import Outputs


@lru_cache(maxsize=2)
def read(name: str) -> tuple[Mapping[str, Any], ...]:
    lines = (Path(__file__).parent / name).read_text("utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def neutral_rows(tokenizer: Any) -> list[list[int]]:
    """The 24 packaged texts as token ids."""
    texts = [line["text"] for line in read("texts.jsonl")[: limits.TEXTS]]
    return [ids[: limits.TEXT_TOKENS] for ids in tokenizer(texts)["input_ids"]]


@dataclass(frozen=True)
class Probes:
    """42 sentences, each with its right end and two wrong ones, scored by log-probability without any generation."""

    rows: Sequence[Sequence[int]]  # token ids to run, each once
    ends: Sequence[
        Sequence[tuple[int, Sequence[int]]]
    ]  # of each sentence, the right end first: (row, its tokens)

    @classmethod
    def of(cls, tokenizer: Any) -> Probes:
        """Ends of one token need no row but the sentence's own."""
        places: dict[tuple[int, ...], int] = {}
        ends = []
        for line in read("probes.jsonl")[: limits.PROBES]:
            prompt = tokenizer(line["prompt"])["input_ids"]
            found = []
            for end in (line["answer"], *line["others"]):
                tokens = tokenizer(end, add_special_tokens=False)["input_ids"]
                row = (*prompt, *tokens[:-1])
                found.append((places.setdefault(row, len(places)), tokens))
            ends.append(found)
        return cls(list(places), ends)

    def right(self, model: Outputs, first_row: int) -> list[float]:
        """1.0 for each sentence whose right end is the likeliest. first_row: of `rows` among the model's."""
        from .outputs import token_log_probs

        wanted = []
        for row, tokens in chain.from_iterable(self.ends):
            first = len(self.rows[row]) - len(tokens)
            wanted += [(first_row + row, first + i, token) for i, token in enumerate(tokens)]
        likely = iter(token_log_probs(model, wanted))
        found = []
        for ends in self.ends:
            right, *wrong = (sum(islice(likely, len(tokens))) for _, tokens in ends)
            found.append(float(right > max(wrong)))
        return found
