"""What a rollout and its updates say about the health of the training, and the alarms that come of it.

The limits are rules of thumb (Gao et al., arXiv 2210.10760, on how reward is over-optimised; the rest from practice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, pstdev


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """Share of an answer's pairs of tokens that it has already said, mean over the answers with three tokens or more."""
    shares = []
    for ids in answers:
        pairs = list(pairwise(ids))
        if len(pairs) > 1:
            shares.append(1 - len(set(pairs)) / len(pairs))
    return fmean(shares) if shares else 0.0


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's r; NaN where one of them does not vary."""
    a, b = pstdev(one), pstdev(other)
    if not a or not b:
        return math.nan
    mean_a, mean_b = fmean(one), fmean(other)
    return fmean([(x - mean_a) * (y - mean_b) for x, y in zip(one, other, strict=True)]) / (a * b)


History = Sequence[Mapping[str, float | None]]
_START, _LATELY = 3, 3  # steps that a trend is measured from, and over


def alarms(history: History) -> list[tuple[str, str]]:
    """What runs away at the end of `history`, one dict per step: [(name, what was measured and what to do)]."""
    now = {name: _mean(history[-_LATELY:], name) for name in _WATCHED}
    start = {name: _mean(history[:_START], name) for name in _WATCHED}
    out = []

    def alarm(name: str, when: bool, text: str) -> None:
        if when:
            out.append((name, text))

    per_token = now["kl_per_token"]
    alarm("kl", per_token > 0.5, f"the KL to the reference is {now['kl']:.1f} nats an answer, {per_token:.2f} a token: "
          "the policy leaves what the reward model was trained on; raise kl_coef, set target_kl, or lower learning_rate")  # fmt: skip
    if len(history) > _START:
        grown = now["length"] / max(start["length"], 1.0)
        alarm("length", grown > 2.0 and now["reward_length_correlation"] > 0.3,
              f"answers grew to {grown:.1f} times their length and longer ones score higher "
              f"(r = {now['reward_length_correlation']:.2f}): the reward pays for length; add a length penalty")  # fmt: skip
        alarm("short", grown < 0.35 and start["length"] >= 4,
              f"answers shrank to {grown:.2f} of their length: the reward pays for saying little")  # fmt: skip
        alarm("repetition", now["repetition"] > max(0.5, start["repetition"] + 0.25),
              f"{now['repetition']:.0%} of an answer repeats itself ({start['repetition']:.0%} at the start): the reward "
              "pays for repetition; lower learning_rate or raise kl_coef")  # fmt: skip
        alarm("stops", now["stopped"] < 0.5 * start["stopped"] and start["stopped"] - now["stopped"] > 3 * _chance(history),
              f"{now['stopped']:.0%} of the answers stop by themselves ({start['stopped']:.0%} at the start); set "
              "missing_eos_penalty or raise max_new_tokens")  # fmt: skip
        alarm("entropy", now["entropy"] < 0.2 * start["entropy"],
              f"the entropy fell to {now['entropy']:.2f} nats a token from {start['entropy']:.2f}: the policy says one "
              "thing only; lower learning_rate, or set entropy_coef")  # fmt: skip
        alarm("judge", now["judge"] < start["judge"] - 0.05 * abs(start["judge"]) and now["reward"] > start["reward"],
              "the reward rises while the second judge's falls: the reward is being hacked; stop here")  # fmt: skip
    alarm("clip", now["clip_fraction"] > 0.5, f"{now['clip_fraction']:.0%} of the tokens are clipped: the steps are too "
          "large; lower learning_rate or num_ppo_epochs")  # fmt: skip
    alarm("constant reward", len(history) >= _START and all(line.get("reward_std") == 0 for line in history[-_START:]),
          "every answer gets the same reward, so there is nothing to learn; look at the reward")  # fmt: skip
    return out


def _chance(history: History) -> float:
    """Standard deviation of the difference of two shares of stopped answers, measured at the start and lately."""
    share = _mean(history[:_START], "stopped") / 2 + _mean(history[-_LATELY:], "stopped") / 2
    answers = _START * _mean(history[:_START], "answers")
    return math.sqrt(share * (1 - share) * 2 / answers) if answers > 0 else 0.0


_WATCHED = ("kl", "kl_per_token", "length", "reward_length_correlation", "repetition", "stopped", "entropy",
            "clip_fraction", "judge", "reward")  # fmt: skip


def _mean(lines: History, name: str) -> float:
    """NaN, which is in no relation to any limit, where nothing was measured."""
    values = [value for line in lines if (value := line.get(name)) is not None and not math.isnan(value)]
    return fmean(values) if values else math.nan
