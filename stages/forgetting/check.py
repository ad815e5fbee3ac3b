"""The forgetting check of a stage that makes a policy: KL, agreement, perplexity and probes, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...pipeline.allocator import give_back_freed_memory
from ..intervals import Measured, before_and_after, plain
from . import FORGETTING, limits
from .outputs import Distance, Outputs, distance, outputs_of, token_log_probs
from .probes import Probes, neutral_rows

if TYPE_CHECKING:
    import numpy as np

    from ...data_formats import TokenTable
    from ...pipeline import Interval, ModelRef


def abilities(model: Any, tokenizer: Any) -> list[Measured]:
    """Of one model: perplexity of the neutral texts, and the share of the probes that are answered rightly."""
    rows, pad_id = Rows.of(tokenizer, None), int(tokenizer.pad_token_id)
    found = rows.outputs_of(model, pad_id)
    counts = [len(ids) - 1 for ids in rows.neutral]
    sums = [
        sum(token_log_probs(found, [(i, place, token) for place, token in enumerate(ids[1:])]))
        for i, ids in enumerate(rows.neutral)
    ]
    right = rows.probes.right(found, len(rows.neutral))
    return [_perplexity([-each for each in sums], counts), Measured.means(probe_accuracy=right)]


@dataclass(frozen=True)
class Rows:
    """What models are compared on, as token ids: the neutral texts, some held-out rows, the probes."""

    neutral: Sequence[Sequence[int]]
    own: Sequence[Sequence[int]]
    probes: Probes

    @classmethod
    def of(cls, tokenizer: Any, held_out: TokenTable | None) -> Rows:
        return cls(neutral_rows(tokenizer), _beginnings(held_out), Probes.of(tokenizer))

    def outputs_of(self, model: Any, pad_id: int, probes: bool = True) -> Outputs:
        return outputs_of(model, [*self.neutral, *self.own, *(self.probes.rows if probes else ())], pad_id)


class ForgettingCheck:
    """Compares the model that a stage hands on with those it came from, one model in memory at a time."""

    def __init__(self, model: Any, tokenizer: Any, held_out: TokenTable | None) -> None:
        """Takes what it needs of the model, which may then be dropped."""
        self._rows, self._pad_id, self._dtype = (
            Rows.of(tokenizer, held_out),
            int(tokenizer.pad_token_id),
            model.dtype,
        )
        self._made = self._rows.outputs_of(model, self._pad_id)

    def against(
        self, given: ModelRef, start: ModelRef, ask: Callable[[Any], None] = lambda _: None
    ) -> tuple[dict[str, float], dict[str, Interval]]:
        """(numbers, intervals by text or row) under the names of FORGETTING; of own rows where rows were held out.

        given: the stage's input, shown to `ask` while it is in memory. start: of the chain. KL is KL(reference || model) in nats per token over the whole
        vocabulary, agreement the share of tokens at which both expect the same one most. That KL on a task's rows is
        what predicts forgetting (RL's Razor, arXiv 2509.04259).
        """
        parts = list(self._compared("input", given, ask))
        if start.fingerprint == given.fingerprint:
            parts += [_renamed(part) for part in parts if part[0].keys() & set(FORGETTING)]
        else:
            parts += self._compared("base", start, lambda _: None)
        numbers: dict[str, float] = {}
        intervals: dict[str, Interval] = {}
        for found, bounds in parts:
            numbers |= found
            intervals |= bounds
        return numbers, intervals

    def _compared(self, name: str, reference: ModelRef, ask: Callable[[Any], None]) -> Iterator[_Found]:
        rows = self._rows
        give_back_freed_memory()  # of the model before
        model = reference.load_model(dtype=self._dtype)
        theirs = rows.outputs_of(model, self._pad_id, probes=name == "input")
        ask(model)
        del model
        places = iter(range(len(rows.neutral) + len(rows.own)))
        for of, each in (("neutral", rows.neutral), ("own", rows.own)):
            found = [distance(theirs, self._made, next(places), ids) for ids in each]
            if found:
                yield plain([_moved(found, f"{of}_kl_{name}", f"{of}_agreement_{name}")])
            if name == "input" and of == "neutral":
                counts = [one.places - 1 for one in found]
                yield before_and_after(
                    *([_perplexity([one.losses[whose] for one in found], counts)] for whose in (0, 1))
                )
        if name == "input":
            first = len(rows.neutral) + len(rows.own)
            yield before_and_after(
                *(
                    [Measured.means(probe_accuracy=rows.probes.right(one, first))]
                    for one in (theirs, self._made)
                )
            )


_Found = tuple[dict[str, float], dict[str, "Interval"]]


def _renamed(found: _Found) -> _Found:
    """The distances from the input as those from the base, which is the same model."""
    numbers, intervals = (
        {name.removesuffix("input") + "base": value for name, value in part.items()} for part in found
    )
    return numbers, intervals  # type: ignore[return-value]


def _moved(found: Sequence[Distance], kl_name: str, agreement_name: str) -> Measured:
    import numpy as np

    kl, same, places = (np.array([getattr(one, n) for one in found]) for n in ("kl", "same", "places"))

    def of(at: np.ndarray) -> dict[str, float]:
        count = places[at].sum()
        return {kl_name: float(kl[at].sum() / count), agreement_name: float(same[at].sum() / count)}

    return Measured(len(found), of)


def _perplexity(losses: Sequence[float], counts: Sequence[int]) -> Measured:
    """Of the neutral texts, from the nats and the number of the tokens of each."""
    import numpy as np

    nats, tokens = np.array(losses), np.array(counts)

    def of(at: np.ndarray) -> dict[str, float]:
        return {"neutral_perplexity": math.exp(min(700.0, float(nats[at].sum() / tokens[at].sum())))}

    return Measured(len(nats), of)


def _beginnings(held_out: TokenTable | None) -> list[list[int]]:
    """The beginnings of held-out rows; of pairs, of the prompts and chosen answers."""
    if held_out is None:
        return []
    found = []
    for i in range(min(limits.OWN_ROWS, len(held_out))):
        row = held_out.row(i)
        answer = row.get("chosen_ids") or row.get("completion_ids") or []
        found.append((row.get("input_ids") or [*row["prompt_ids"], *answer])[: limits.OWN_TOKENS])
    return found
