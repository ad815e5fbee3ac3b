"""What a rollout and its updates say about the health of the training, and the alarms that come of it.

An alarm is raised by a change that is large and that chance does not make: more than four standard errors, taken over
the answers. How large is a rule of thumb (Gao et al., arXiv 2210.10760, on how reward is over-optimised; the rest from
practice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
_CERTAIN = 4.0  # standard errors: chance exceeds them once in 30,000 looks, and each step is a look
_MOSTLY = math.sqrt(0.5)  # a correlation at which one number explains half of the other's variance


@dataclass(frozen=True)
class _Trend:
    """A number's mean over the first steps and over the newest ones. NaN, which is in no relation to any limit, where
    it was not measured."""

    start: float
    now: float
    noise: float  # standard error of their difference

    @property
    def rose(self) -> bool:
        """By more than chance."""
        return self.now - self.start > _CERTAIN * self.noise

    @property
    def fell(self) -> bool:
        return self.start - self.now > _CERTAIN * self.noise


def alarms(history: History) -> list[tuple[str, str]]:
    """What runs away at the end of `history`, one dict per step: [(name, what was measured and what to do)].

    Nothing without a step: a rank that does not write keeps no history.
    """
    if not history:
        return []
    return [(name, text) for name, check in _CHECKS.items() if (text := check(history))]


def _kl(history: History) -> str | None:
    kl, per_token = _lately(history, "kl"), _lately(history, "kl_per_token")
    if per_token > 0.5 and kl > _CERTAIN * _error(history[-_STEPS:], "kl"):
        return (
            f"the KL to the reference is {kl:.1f} nats an answer, {per_token:.2f} a token: the policy leaves what the "
            "reward model was trained on; raise kl_coef, set target_kl, or lower learning_rate"
        )
    return None


def _clip(history: History) -> str | None:
    if (clipped := _lately(history, "clip_fraction")) > 0.5:
        return f"{clipped:.0%} of the tokens are clipped: the steps are too large; lower learning_rate or num_ppo_epochs"
    return None


def _constant_reward(history: History) -> str | None:
    lately = history[-_STEPS:]
    varies = any(line.get("reward_std") != 0 or line["reward"] != lately[0]["reward"] for line in lately)
    if len(lately) == _STEPS and not varies:
        return "every answer gets the same reward, so there is nothing to learn; look at the reward"
    return None


def _length(history: History) -> str | None:
    r, length = _lately(history, "reward_length_correlation"), _trend(history, "length")
    if len(history) >= _STEPS and _least(r, _total(history[-_STEPS:], "answers")) > _MOSTLY:
        return (
            f"longer answers score higher (r = {r:.2f}): most of the reward is their length; add a length penalty, or look "
            "at the reward"
        )
    if length.now > 2.0 * max(length.start, 1.0) and length.rose and r > 0.3:
        return (
            f"answers grew from {length.start:.0f} to {length.now:.0f} tokens and longer ones score higher (r = {r:.2f}): "
            "the reward pays for length; add a length penalty"
        )
    return None


def _short(history: History) -> str | None:
    length = _trend(history, "length")
    if length.now < 0.5 * length.start and length.fell and length.start >= 4:
        return (
            f"answers shrank from {length.start:.0f} to {length.now:.0f} tokens: the reward pays for saying little; look at "
            "the reward"
        )
    return None


def _repetition(history: History) -> str | None:
    repeated = _trend(history, "repetition")
    if repeated.now > max(0.5, repeated.start + 0.25) and repeated.rose:
        return (
            f"{repeated.now:.0%} of an answer repeats itself ({repeated.start:.0%} at the start): the reward pays for "
            "repetition; lower learning_rate or raise kl_coef"
        )
    return None


def _stops(history: History) -> str | None:
    stopped = _stopped(history)
    if stopped.now < 0.5 * stopped.start and stopped.fell:
        return (
            f"{stopped.now:.0%} of the answers stop by themselves ({stopped.start:.0%} at the start); set "
            "missing_eos_penalty or raise max_new_tokens"
        )
    return None


def _entropy(history: History) -> str | None:
    entropy = _trend(history, "entropy")
    if entropy.now < 0.2 * entropy.start:
        return (
            f"the entropy fell to {entropy.now:.2f} nats a token from {entropy.start:.2f}: the policy says one thing only; "
            "lower learning_rate, or set entropy_coef"
        )
    return None


def _judge(history: History) -> str | None:
    if _trend(history, "judge").fell and _reward(history).rose:
        return "the reward rises while the second judge's falls: the reward is being hacked; stop here"
    return None


def _critic(history: History) -> str | None:
    """Its error against the variance of the returns; the median, for one odd rollout says nothing."""
    explained = [_value(line, "explained_variance") for line in history[-_STEPS:]]
    if len(history) > _STEPS and not any(map(math.isnan, explained)) and median(explained) < -1.0:
        return (
            f"the critic is further from the returns than their mean is (explained variance {median(explained):.1f}), so "
            "the advantages are noise; lower critic_learning_rate"
        )
    return None


_CHECKS: Mapping[str, Callable[[History], str | None]] = {
    "kl": _kl,
    "length": _length,
    "short": _short,
    "repetition": _repetition,
    "stops": _stops,
    "entropy": _entropy,
    "judge": _judge,
    "critic": _critic,
    "clip": _clip,
    "constant reward": _constant_reward,
}


def _least(r: float, answers: float) -> float:
    """What a correlation seen over so many answers is at least (Fisher's z)."""
    if not answers > 3:
        return math.nan
    return math.tanh(math.atanh(max(min(r, 0.999), -0.999)) - _CERTAIN / math.sqrt(answers - 3))


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
    """Standard error of the mean over some steps; 0 where none came with it, as with TRL's own numbers."""
    errors = [_value(line, f"{name}_se") if f"{name}_se" in line else 0.0 for line in lines]
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
