"""The policy answers, everybody judges: the model of an online stage, seen from outside the update.

# N answers of a rollout, T tokens of the longest one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import SamplerError, TrainingDivergedError

from ..evaluation import evaluating
from ..intervals import Measured
from ..proofs import prove_equal, prove_unchanged
from .health import correlation, repetition, standard_error
from .judges import JUDGE, Judges
from .loading import load_roles
from .rewards import Answered
from .roles import Batch
from .sampling import Answer, Sampler, TransformersSampler, row_seed, stop_ids
from .vllm import VLLM

if TYPE_CHECKING:
    from ...data_formats import TokenTable
    from ...pipeline import StageContext
    from .stage import Critic, OnlineStage

_HELD_OUT_PROMPTS = 64
_SAMPLER_TOLERANCE = 0.25  # nats a token; 16-bit kernels of two programs differ by about a tenth of it


@dataclass(frozen=True)
class Judged:
    """Answers to some prompts, and what the rewards say of them."""

    rows: Sequence[int]
    prompts: Sequence[Sequence[int]]
    answers: Sequence[Answer]
    scores: Sequence[float]  # as the rewards gave them, weighted and added up
    parts: Mapping[str, Sequence[float]]  # each reward's own

    @property
    def ids(self) -> list[Sequence[int]]:
        return [answer.ids for answer in self.answers]

    def numbers(self) -> dict[str, float]:
        """What the answers alone say about the policy's health; "_se" is the standard error of a mean over them."""
        lengths = [float(len(ids)) for ids in self.ids]
        repeated = [repetition(ids) for ids in self.ids]
        judge = {f"{JUDGE}_se": standard_error(self.parts[JUDGE])} if JUDGE in self.parts else {}
        return {
            "answers": float(len(self.scores)),
            "reward": fmean(self.scores),
            "reward_std": pstdev(self.scores),
            **{name if name == JUDGE else f"reward/{name}": fmean(part) for name, part in self.parts.items()},
            **judge,
            "length": fmean(lengths),
            "length_se": standard_error(lengths),
            "stopped": fmean(answer.stopped for answer in self.answers),
            "reward_length_correlation": correlation(self.scores, lengths),
            "repetition": fmean(repeated),
            "repetition_se": standard_error(repeated),
        }


@dataclass(frozen=True)
class Rollout(Judged):
    """The same with the log-probabilities of policy and reference; (N, T) tensors on the CPU."""

    log_probs_NT: Tensor
    reference_NT: Tensor
    entropy_NT: Tensor
    mask_NT: Tensor
    values_NT: Tensor | None = None  # of a critic that shares the policy's trunk: they come in the same pass
    sampler_difference: float | None = None  # nats per token, where another program sampled

    @property
    def kl_N(self) -> Tensor:
        """Nats per answer, log p - log q summed over its tokens."""
        return ((self.log_probs_NT - self.reference_NT) * self.mask_NT).sum(1)

    def numbers(self) -> dict[str, float]:
        tokens = float(self.mask_NT.sum())
        return super().numbers() | {
            "kl": float(self.kl_N.mean()),
            "kl_se": standard_error(self.kl_N.tolist()),
            "kl_per_token": float(self.kl_N.sum()) / tokens,
            "entropy": float((self.entropy_NT * self.mask_NT).sum()) / tokens,
            **({} if self.sampler_difference is None else {"sampler_difference": self.sampler_difference}),
        }


class Rollouts:
    """Owns the roles and the judges, and lets the policy answer. Changes nothing but what it is asked for."""

    def __init__(
        self, stage: OnlineStage, context: StageContext, tokenizer: Any, critic: Critic | None
    ) -> None:
        """Raises WrongBaseError or RewardGateError for a reward model that may not be used."""
        source = context.inputs["policy"]
        self._judges = Judges.of(stage, source, context.inputs.get("reward"))
        self._judges.pass_gate(stage.gate, context)
        self.roles = load_roles(stage, source, self._judges.adapter, context.seed, critic)
        self._tokenizer, self.pad_id = tokenizer, int(tokenizer.pad_token_id)
        self.policy = self.roles.policy
        stops = stop_ids(self.policy, tokenizer)
        self._judges.load(self.roles, self.pad_id, stops, tokenizer.eos_token_id)
        self._temperature, self._batch_size, self._context = stage.temperature, stage.batch_size, context
        self._starts_as_reference = stage.strategy.capabilities.identity_at_start
        self._ranks = context.ranks
        self._sampler = self._open_sampler(stage)

    def _open_sampler(self, stage: OnlineStage) -> Sampler:
        if isinstance(stage.sampler, VLLM):
            from .vllm.sampler import open_sampler

            return open_sampler(stage.sampler, stage, self._context, self.policy, self._tokenizer)
        can = stage.strategy.capabilities
        return TransformersSampler(
            self.policy, self.pad_id, stop_ids(self.policy, self._tokenizer), stage.max_new_tokens, stage.temperature,
            merges=can.mergeable and not can.makes_base and not can.four_bit_base,
        )  # fmt: skip

    def add(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self._ranks.add(values)

    def sample(self, table: TokenTable, rows: Sequence[int], seeds: Sequence[int]) -> list[Answer]:
        """One answer of the policy to each prompt."""
        with evaluating(self.policy):
            return self._sampler.sample([table.row(row)["prompt_ids"] for row in rows], seeds)

    def judge(self, table: TokenTable, rows: Sequence[int], answers: Sequence[Answer]) -> Judged:
        """Have answers scored.

        Raises RewardError for a reward that is not what it must be, TrainingDivergedError when all are empty.
        """
        ids = [answer.ids for answer in answers]
        texts = self._tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)
        if not self._ranks.any(any(text.strip() for text in texts)):
            raise TrainingDivergedError(
                f"The policy says nothing: all of {len(texts)} answers are empty. Train it with SFT first, or lower "
                "learning_rate."
            )
        if not rows:  # more ranks than prompts
            return Judged([], [], [], [], {})
        prompts = [table.row(row)["prompt_ids"] for row in rows]
        records = [table.records[row] for row in rows]
        names = list(dict.fromkeys(name for record in records for name in record["columns"]))
        answered = Answered(
            prompts, ids, [record["prompt"] for record in records], [text.strip() for text in texts],
            {name: [record["columns"].get(name) for record in records] for name in names},
        )  # fmt: skip
        with evaluating(self.policy):
            scores, parts = self._judges.score(answered)
        return Judged(list(rows), prompts, list(answers), scores, parts)

    def answer(self, table: TokenTable, rows: Sequence[int], seeds: Sequence[int]) -> Rollout:
        """Sample an answer to each prompt, and take the rewards and log-probabilities of all of them."""
        return self.scored(table, rows, self.sampled(table, rows, seeds))

    def sampled(self, table: TokenTable, rows: Sequence[int], seeds: Sequence[int]) -> list[Answer]:
        """To this rank's share of the prompts."""
        mine = self._ranks.mine(len(rows))
        return self.sample(table, [rows[i] for i in mine], [seeds[i] for i in mine])

    def scored(self, table: TokenTable, rows: Sequence[int], answers: Sequence[Answer]) -> Rollout:
        """The answers of all ranks, each of which has sampled its share, with their rewards and log-probabilities."""
        own = [rows[i] for i in self._ranks.mine(len(rows))]
        judged = self.together(self.judge(table, own, answers))
        shape = len(rows), max(map(len, judged.ids))
        policy, reference, entropy, mask, values = (torch.zeros(shape) for _ in range(5))
        with evaluating(self.policy):
            for chosen, batch in self.batches(judged):  # this rank's, and zeros for the others to fill in
                span = chosen, slice(0, batch.mask_BT.shape[1])
                if self.roles.critic_is_shared:
                    own_BT, entropy_BT, values_BT = self.roles.log_probs_and_values(batch, self._temperature)
                    values[span] = values_BT.cpu()
                else:
                    own_BT, entropy_BT = self.roles.log_probs(batch, "policy", self._temperature)
                policy[span], entropy[span] = own_BT.cpu(), entropy_BT.cpu()
                reference[span] = self.roles.log_probs(batch, "reference", self._temperature)[0].cpu()
                mask[span] = batch.mask_BT.cpu()
        policy, reference, entropy, mask, values = (
            self._ranks.add(each) for each in (policy, reference, entropy, mask, values)
        )
        difference = sampler_difference(judged.answers, policy) if self._temperature == 1.0 else None
        return Rollout(
            judged.rows, judged.prompts, judged.answers, judged.scores, judged.parts,
            policy, reference, entropy, mask, values if self.roles.critic_is_shared else None, difference,
        )  # fmt: skip

    def together(self, judged: Judged) -> Judged:
        """Those of all ranks, one rank's behind the other's."""
        shares = self._ranks.gather(judged)
        names = list(dict.fromkeys(name for share in shares for name in share.parts))
        return Judged(
            [row for share in shares for row in share.rows],
            [prompt for share in shares for prompt in share.prompts],
            [answer for share in shares for answer in share.answers],
            [score for share in shares for score in share.scores],
            {name: [value for share in shares for value in share.parts.get(name, ())] for name in names},
        )

    def batches(self, judged: Judged) -> Iterator[tuple[list[int], Batch]]:
        """(places, batch) of this rank's share; similar lengths together, so that little is computed on padding."""
        lengths = [len(p) + len(a) for p, a in zip(judged.prompts, judged.ids, strict=True)]
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        order = order[self._ranks.rank :: self._ranks.size]
        for at in range(0, len(order), self._batch_size):
            chosen = order[at : at + self._batch_size]
            prompts, answers = [judged.prompts[i] for i in chosen], [judged.ids[i] for i in chosen]
            yield chosen, Batch.of(prompts, answers, self.pad_id, self.policy.device)

    def prove_start(self, table: TokenTable, prove: Callable[[str, float], None]) -> None:
        """The policy is its reference (KL 0, ratio 1), our log-probabilities are the model's own, one base only."""
        prompts = [table.row(i)["prompt_ids"] for i in range(min(4, len(table)))]
        answers = [list(reversed(prompt))[:8] for prompt in prompts]  # any tokens will do
        batch = Batch.of(prompts, answers, self.pad_id, self.policy.device)
        with evaluating(self.policy):
            mine, _ = self.roles.log_probs(batch, "policy", 1.0)
            reference, _ = self.roles.log_probs(batch, "reference", 1.0)
            logits_BLV = self.policy(
                input_ids=batch.ids_BL, attention_mask=batch.attention_BL, use_cache=False
            ).logits
            full_BTV = torch.log_softmax(batch.before_answers(logits_BLV).float(), -1)
            theirs = full_BTV.gather(-1, batch.targets_BT[..., None])[..., 0] * batch.mask_BT
        prove("log_prob_difference", prove_equal("The chunked log-probability", theirs, mine, 1e-4))
        if self._starts_as_reference:
            prove("reference_difference_nats", prove_unchanged(mine, reference))
        beside = self._judges.other_models + self._sampler.copies_of_the_base
        prove("copies_of_the_base", float(self.roles.copies_of_the_base() + beside))
        if not isinstance(self._sampler, TransformersSampler):
            self._prove_sampler(prompts, prove)

    def _prove_sampler(self, prompts: Sequence[Sequence[int]], prove: Callable[[str, float], None]) -> None:
        """Another program that samples has the policy's weights: its log-probabilities are ours."""
        with evaluating(self.policy):
            answers = self._sampler.sample(prompts, list(range(len(prompts))))
            batch = Batch.of(prompts, [answer.ids for answer in answers], self.pad_id, self.policy.device)
            ours_BT, _ = self.roles.log_probs(batch, "policy", 1.0)
        if (difference := sampler_difference(answers, ours_BT.cpu())) is not None:
            prove("sampler_difference_nats", difference)

    def measure(self, table: TokenTable | None) -> list[Measured]:
        """On held-out prompts, each answered from a fixed seed: reward, KL (nats per answer), length, own stops."""
        if table is None:
            return []
        rows = range(min(_HELD_OUT_PROMPTS, len(table)))
        rollout = self.answer(table, rows, [row_seed(self._context.seed, "held out", row) for row in rows])
        scores, kl = np.array(rollout.scores), rollout.kl_N.numpy()
        lengths = np.array([float(len(ids)) for ids in rollout.ids])
        stopped = np.array([float(answer.stopped) for answer in rollout.answers])

        def of(at: np.ndarray) -> dict[str, float]:
            each = {"reward": scores, "kl": kl, "length": lengths, "stopped": stopped}
            means = {name: float(values[at].mean()) for name, values in each.items()}
            return means | {"reward_std": float(scores[at].std())}

        return [Measured(len(scores), of)]


def sampler_difference(answers: Sequence[Answer], ours_NT: Tensor) -> float | None:
    """Mean difference per token between the log-probabilities of another program that sampled and ours, in nats.

    None where the policy sampled by itself. Raises SamplerError when it is so large that the answers are another
    model's.
    """
    pairs = [
        abs(theirs - ours)
        for answer, ours_T in zip(answers, ours_NT.tolist(), strict=True)
        for theirs, ours in zip(answer.log_probs or (), ours_T, strict=False)
    ]
    if not pairs:
        return None
    difference = fmean(pairs)
    if not difference <= _SAMPLER_TOLERANCE:
        raise SamplerError(
            f"The sampler's log-probabilities are {difference:.2f} nats a token away from the policy's, and "
            f"{_SAMPLER_TOLERANCE:g} is the most that rounding explains: it answers from another model, or without the "
            "policy's adapter; look at what it serves."
        )
    return difference
