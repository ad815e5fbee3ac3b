"""What a rollout and its updates say about the health of the training, and the alarms that come of it.

An alarm is raised by a change that is large and that chance does not make: more than four standard errors, taken over
the answers. How large is a rule of thumb (Gao et al., arXiv 2210.10760, on how reward is over-optimised; the rest from
practice).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, pstdev, stdev


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's pairs of tokens that it has already said; 0 of fewer than two pairs."""
    pairs = list(pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if len(pairs) > 1 else 0.0


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; NaN of a single one."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's r; NaN where one of them does not vary."""
    a, b = pstdev(one), pstdev(other)
    if not a or not b:
        return math.nan
    mean_a, mean_b = fmean(one), fmean(other)
    return fmean([(x - mean_a) * (y - mean_b) for x, y in zip(one, other, strict=True)]) / (a * b)


History = Sequence[Mapping[str, float | None]]
_STEPS = 3  # that a number is averaged over, at the start and lately
_CERTAIN = (
    4.0  # standard errors: chance exceeds them once in 30,000 looks, and every step looks at every number
)
_MOSTLY = math.sqrt(0.5)  # a correlation at which one number explains half of the other's variance


@dataclass(frozen=True)
class _Trend:
    """A number's mean over the first steps and over the newest ones. NaN, which is in no relation to any limit, where
    it was not measured."""

    start: float
    now: float
    noise: float = math.nan  # standard error of their difference

    @property
    def rose(self) -> bool:
        """By more than chance."""
        return self.now - self.start > _CERTAIN * self.noise

    @property
    def fell(self) -> bool:
        return self.start - self.now > _CERTAIN * self.noise


def alarms(history: History) -> list[tuple[str, str]]:
    """What runs away at the end of `history`, one dict per step: [(name, what was measured and what to do)]."""
    if len(history) <= _STEPS:
        return list(_of_updates(history))
    return [*_of_updates(history), *_of_answers(history)]


def _of_updates(history: History) -> Iterator[tuple[str, str]]:
    """What needs no comparison with the start."""
    kl, per_token, clipped = (_lately(history, name) for name in ("kl", "kl_per_token", "clip_fraction"))
    if per_token > 0.5 and kl > _CERTAIN * _error(history[-_STEPS:], "kl"):
        yield (
            "kl",
            (
                f"the KL to the reference is {kl:.1f} nats an answer, {per_token:.2f} a token: the policy leaves what the reward "
                "model was trained on; raise kl_coef, set target_kl, or lower learning_rate"
            ),
        )
    if clipped > 0.5:
        yield (
            "clip",
            (
                f"{clipped:.0%} of the tokens are clipped: the steps are too large; lower learning_rate or num_ppo_epochs"
            ),
        )
    if len(history) < _STEPS:
        return
    lately = history[-_STEPS:]
    if all(line.get("reward_std") == 0 and line.get("reward") == lately[0].get("reward") for line in lately):
        yield (
            "constant reward",
            ("every answer gets the same reward, so there is nothing to learn; look at the reward"),
        )
    r, answers = _lately(history, "reward_length_correlation"), _total(lately, "answers")
    if answers > 3 and math.atanh(max(min(r, 0.999), -0.999)) - _CERTAIN / math.sqrt(
        answers - 3
    ) > math.atanh(_MOSTLY):
        yield (
            "length",
            (
                f"longer answers score higher (r = {r:.2f}), and most of the reward is their length; add a length penalty, or "
                "look at the reward"
            ),
        )


def _of_answers(history: History) -> Iterator[tuple[str, str]]:
    """What the answers have become since the start."""
    length, repeats, judge = (_trend(history, name) for name in ("length", "repetition", "judge"))
    r, stopped, reward = _lately(history, "reward_length_correlation"), _stopped(history), _reward(history)
    grown = length.now / max(length.start, 1.0)
    if grown > 2.0 and length.rose and r > 0.3:
        yield (
            "length",
            (
                f"answers grew to {grown:.1f} times their length and longer ones score higher (r = {r:.2f}): the reward pays for "
                "length; add a length penalty"
            ),
        )
    if grown < 0.5 and length.fell and length.start >= 4:
        yield "short", f"answers shrank to {grown:.2f} of their length: the reward pays for saying little"
    if repeats.now > max(0.5, repeats.start + 0.25) and repeats.rose:
        yield (
            "repetition",
            (
                f"{repeats.now:.0%} of an answer repeats itself ({repeats.start:.0%} at the start): the reward pays for "
                "repetition; lower learning_rate or raise kl_coef"
            ),
        )
    if stopped.now < 0.5 * stopped.start and stopped.fell:
        yield (
            "stops",
            (
                f"{stopped.now:.0%} of the answers stop by themselves ({stopped.start:.0%} at the start); set "
                "missing_eos_penalty or raise max_new_tokens"
            ),
        )
    entropy = _trend(history, "entropy")
    if entropy.now < 0.2 * entropy.start:
        yield (
            "entropy",
            (
                f"the entropy fell to {entropy.now:.2f} nats a token from {entropy.start:.2f}: the policy says one thing only; "
                "lower learning_rate, or set entropy_coef"
            ),
        )
    if judge.fell and reward.rose:
        yield (
            "judge",
            "the reward rises while the second judge's falls: the reward is being hacked; stop here",
        )
    explained = [
        value for line in history[-_STEPS:] if (value := _value(line, "explained_variance")) == value
    ]
    if explained and median(explained) < -1.0:
        yield (
            "critic",
            (
                f"the critic is further from the returns than their mean is (explained variance {median(explained):.1f}), so the "
                "advantages are noise; lower critic_learning_rate"
            ),
        )


def _trend(history: History, name: str) -> _Trend:
    """Of a number that comes with its standard error, "<name>_se"."""
    start, lately = history[:_STEPS], history[-_STEPS:]
    noise = math.hypot(_error(start, name), _error(lately, name))
    return _Trend(_mean(start, name), _mean(lately, name), noise)


def _stopped(history: History) -> _Trend:
    """Of a share: its error is that of the binomial distribution with the share of both together."""
    start, lately = history[:_STEPS], history[-_STEPS:]
    before, now = _mean(start, "stopped"), _mean(lately, "stopped")
    share = (before + now) / 2
    counts = [_total(lines, "answers") for lines in (start, lately)]
    return _Trend(before, now, math.sqrt(share * (1 - share) * sum(1 / count for count in counts)))


def _reward(history: History) -> _Trend:
    start, lately = history[:_STEPS], history[-_STEPS:]
    errors = [_mean(lines, "reward_std") / math.sqrt(_total(lines, "answers")) for lines in (start, lately)]
    return _Trend(_mean(start, "reward"), _mean(lately, "reward"), math.hypot(*errors))


def _error(lines: History, name: str) -> float:
    """Standard error of the mean over some steps."""
    errors = [_value(line, f"{name}_se") for line in lines]
    return math.hypot(*errors) / len(errors)


def _lately(history: History, name: str) -> float:
    return _mean(history[-_STEPS:], name)


def _mean(lines: History, name: str) -> float:
    values = [value for line in lines if not math.isnan(value := _value(line, name))]
    return fmean(values) if values else math.nan


def _total(lines: History, name: str) -> float:
    return sum(_value(line, name) for line in lines)


def _value(line: Mapping[str, float | None], name: str) -> float:
    value = line.get(name)
    return math.nan if value is None else value
