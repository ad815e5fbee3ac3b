"""How good answers are: what models wrote, compared with what they should have written.

Every score is a share between 0 and 1, except chrF (0 to 100). A share of nothing (no call tried, no span
found) is 0.0.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from statistics import fmean
from string import punctuation
from typing import Any

from posttrain.errors import DataError, SettingError

from .calls import Found, calls_in

Span = tuple[str, str]  # label, text


@dataclass(frozen=True)
class Answer:
    text: str  # what the model wrote, special tokens removed
    stopped: bool  # it ended with a stop token by itself; False: it ran into the limit


def stop_rate(answers: Sequence[Answer]) -> float:
    """The share of answers that came to an end by themselves."""
    _check_some(answers)
    return fmean(answer.stopped for answer in answers)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the answer is one of the references, after normalisation (SQuAD, Rajpurkar et al. 2016)."""
    return max(_equal(answer, one) for one in _some_references(references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the words shared with the closest reference (SQuAD, Rajpurkar et al. 2016).

    Scripts written without spaces count by the character, as in CMRC 2018 (Cui et al. 2019); their overlap is
    SQuAD's bag of tokens, not CMRC's longest common part.
    """
    return max(_overlap(answer, one) for one in _some_references(references))


def classification(labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro F1 (Sokolova & Lapalme 2009), and the share of predictions that are no label.

    Macro F1 is the mean over the labels that occur in `gold` or `predicted`.
    """
    _check_labels(labels, gold)
    _check_paired(gold, predicted)
    return {
        "accuracy": fmean(g == p for g, p in zip(gold, predicted, strict=True)),
        "macro_f1": _macro_f1(labels, [{g} for g in gold], [{p} for p in predicted]),
        "unknown": fmean(p not in labels for p in predicted),
    }


def confusion(labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> list[list[int]]:
    """Rows are the gold labels, columns the predicted ones; the extra last column is what is no label."""
    _check_labels(labels, gold)
    _check_paired(gold, predicted)
    counts = Counter((g, p if p in labels else None) for g, p in zip(gold, predicted, strict=True))
    return [[counts[row, column] for column in (*labels, None)] for row in labels]


def multilabel(
    labels: Sequence[str], gold: Sequence[AbstractSet[str]], predicted: Sequence[AbstractSet[str]]
) -> dict[str, float]:
    """Subset accuracy, micro and macro F1 over labels (Tsoumakas & Katakis 2007).

    A predicted label that does not exist makes its answer wrong and is a false positive of micro F1.
    """
    _check_labels(labels, chain.from_iterable(gold))
    _check_paired(gold, predicted)
    return {
        "accuracy": fmean(g == p for g, p in zip(gold, predicted, strict=True)),
        "micro_f1": _f1(sum(len(g & p) for g, p in zip(gold, predicted, strict=True)),
                        sum(map(len, predicted)), sum(map(len, gold))),
        "macro_f1": _macro_f1(labels, gold, predicted),
    }  # fmt: skip


def call_match(gold: Sequence[Mapping[str, Any]], answer_calls: Sequence[Mapping[str, Any]]) -> float:
    """1.0 if both hold the same calls, in any order, each {"name", "arguments"} (BFCL, Patil et al. 2025).

    Arguments are compared as JSON values: 1 is 1.0 and the order of keys is free, True is not 1.
    """
    return float(Counter(map(_call_key, gold)) == Counter(map(_call_key, answer_calls)))


def call_scores(golds: Sequence[Sequence[Mapping[str, Any]]], answers: Sequence[str]) -> dict[str, float]:
    """Function calling (BFCL, Patil et al. 2025): the means over answers, read by `calls_in`.

    call_match: the calls are the gold ones; call_name_match: their names are; valid_calls: among the answers
    that try to call, the share with no broken attempt. An answer with a broken attempt matches nothing.
    """
    _check_paired(golds, answers)
    found = [_found(answer) for answer in answers]
    said = [[call.as_dict() for call in one.calls] for one in found]
    whole = [not one.broken for one in found]
    tried = [not one.broken for one in found if one.calls or one.broken]
    rows = list(zip(whole, golds, said, strict=True))
    return {
        "call_match": fmean(ok and call_match(gold, calls) for ok, gold, calls in rows),
        "call_name_match": fmean(ok and _names(gold) == _names(calls) for ok, gold, calls in rows),
        "valid_calls": fmean(tried) if tried else 0.0,
    }


def span_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Micro precision, recall and F1 of (label, text) spans (CoNLL 2003, Tjong Kim Sang & De Meulder).

    A span that stands there twice must be said twice.
    """
    _check_paired(gold, predicted)
    hits = sum((Counter(g) & Counter(p)).total() for g, p in zip(gold, predicted, strict=True))
    said, wanted = sum(map(len, predicted)), sum(map(len, gold))
    return {
        "precision": hits / said if said else 0.0,
        "recall": hits / wanted if wanted else 0.0,
        "f1": _f1(hits, said, wanted),
    }


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a corpus, 0 to 100 (Popović 2015), one reference for each answer; sacrebleu's chrF2.

    F2 of the mean precision and mean recall over character n-grams of 1 to 6, without white space. An order of which a
    reference has none is not counted in its answer; one of which all have none is left out.
    """
    _check_paired(references, answers)
    counted = [_character_ngrams(*pair) for pair in zip(answers, references, strict=True)]
    orders = [[sum(column) for column in zip(*order, strict=True)] for order in zip(*counted, strict=True)]
    shares = [(hits / said, hits / wanted) for hits, said, wanted in orders if said and wanted]
    if not shares:
        return 0.0
    precision, recall = (fmean(column) for column in zip(*shares, strict=True))
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Thai, Lao, Tibetan, Burmese; Khmer; Han with 々 and 〇, kana, bopomofo; half-width kana; rare Han.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def _words(text: str) -> list[str]:
    lower = text.lower()
    bare = "".join(c for c in lower if c not in punctuation and not unicodedata.category(c).startswith("P"))
    # A text of nothing but articles or signs keeps them: "A" of a multiple choice is no empty answer.
    kept = (_WORD.findall(left) for left in (_ARTICLES.sub(" ", bare), bare, lower))
    return next(filter(None, kept), [])


# An interval judges the same answers a thousand times: what a pair of texts gives is kept.
_kept = lru_cache(maxsize=4096)


@_kept
def _equal(one: str, other: str) -> float:
    return float(_words(one) == _words(other))


@_kept
def _overlap(one: str, other: str) -> float:
    mine, theirs = _words(one), _words(other)
    if not mine and not theirs:
        return 1.0
    return _f1((Counter(mine) & Counter(theirs)).total(), len(mine), len(theirs))


@_kept
def _character_ngrams(answer: str, reference: str) -> tuple[tuple[int, int, int], ...]:
    """Of 1 to 6 characters: (those that both have, the answer's, the reference's)."""
    said, wanted = ("".join(text.split()) for text in (answer, reference))
    counted = []
    for n in range(1, 7):
        mine, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (said, wanted))
        counted.append(((mine & theirs).total(), mine.total() if theirs else 0, theirs.total()))
    return tuple(counted)


@_kept
def _found(answer: str) -> Found:
    return calls_in(answer)


def _f1(hits: int, said: int, wanted: int) -> float:
    return 2 * hits / (said + wanted) if said + wanted else 0.0


def _macro_f1(
    labels: Sequence[str], gold: Sequence[AbstractSet[str]], predicted: Sequence[AbstractSet[str]]
) -> float:
    hits = Counter(chain.from_iterable(g & p for g, p in zip(gold, predicted, strict=True)))
    said, wanted = Counter(chain.from_iterable(predicted)), Counter(chain.from_iterable(gold))
    scores = [_f1(hits[one], said[one], wanted[one]) for one in labels if said[one] or wanted[one]]
    return fmean(scores) if scores else 0.0


def _names(calls: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(call["name"] for call in calls)


def _call_key(call: Mapping[str, Any]) -> Hashable:
    if not isinstance(call["arguments"], Mapping):
        kind = type(call["arguments"]).__name__
        raise DataError(
            f"The arguments of a call to {call['name']!r} are of type {kind}, not an object; read them with json.loads first."
        )
    return call["name"], _json_key(call["arguments"])


def _json_key(value: Any) -> Hashable:
    """Equal for equal JSON values: 1 == 1.0, True != 1, and the order of keys is free."""
    if isinstance(value, Mapping):
        return frozenset((name, _json_key(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_json_key, value))
    return isinstance(value, bool), value


def _some_references(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str) or not references:
        raise DataError(
            f"The references of an answer are {references!r}; give a list of at least one text, [''] where nothing is the right answer."
        )
    return references


def _check_some(answers: Sized) -> None:
    if not len(answers):
        raise DataError("There are no answers to score; give at least one.")


def _check_paired(gold: Sized, answers: Sized) -> None:
    _check_some(answers)
    if len(gold) != len(answers):
        raise DataError(
            f"There are {len(answers)} answers for {len(gold)} rows; give one answer for each row, in the same order."
        )


def _check_labels(labels: Sequence[str], gold: Iterable[str]) -> None:
    twice = [label for label, times in Counter(labels).items() if times > 1]
    if twice:
        raise SettingError(f"The labels hold {twice[0]!r} twice; name each label once.")
    unknown = set(gold) - set(labels)
    if unknown:
        raise DataError(
            f"The gold label {min(unknown)!r} is none of the labels {list(labels)}; add it to them, or correct the rows."
        )
