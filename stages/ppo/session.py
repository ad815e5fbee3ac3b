"""PPO from the first rollout to the last: answer, score, learn, watch, save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch

from posttrain.errors import DiskSpaceError, TrainingDivergedError

from ...pipeline import StageContext
from ...pipeline.durable import is_disk_full
from ..proofs import prove_equal, prove_unchanged
from ..samples import sample_answers
from ..token_tables import Tables
from ..trl_session import disk_full
from .experience import Experience
from .health import alarms
from .judges import Judges
from .loading import load_roles
from .roles import Batch
from .rollout import TransformersSampler, row_seed, stop_ids
from .state import fresh_progress, load_state, save_state, trained_parameters
from .update import Updater

if TYPE_CHECKING:
    from .stage import PPO

_HELD_OUT_PROMPTS = 64


class PPOSession:
    """Owns the roles and everything that changes while they train."""

    def __init__(self, stage: PPO, context: StageContext, tables: Tables, tokenizer: Any) -> None:
        self._stage, self._context, self._tables, self._tokenizer = stage, context, tables, tokenizer
        self._arguments, self._pad_id = stage.arguments, int(tokenizer.pad_token_id)
        source = context.inputs["policy"]
        self._judges = Judges.of(stage, source, context.inputs.get("reward"))
        self._judges.pass_gate(stage.gate, context)
        self._roles = load_roles(stage, source, self._judges.adapter, context.seed)
        self._judges.load(self._roles, self._pad_id)
        self.model = self._roles.policy
        sampler = TransformersSampler(
            self.model,
            self._pad_id,
            stop_ids(self.model, tokenizer),
            stage.max_new_tokens,
            self._arguments.temperature,
        )
        self._experience = Experience(
            self._roles, self._judges, sampler, tokenizer, self._arguments, stage.batch_size
        )
        self._steps = stage.steps(len(tables.train))
        updates = self._steps * self._arguments.num_ppo_epochs * self._arguments.num_mini_batches
        self._updater = Updater(self._roles, stage, updates)
        self._progress = fresh_progress(stage.kl_coef, stage.target_kl, self._arguments.kl_horizon)
        self._answers_before: list[str] = []

    def prove_start(self) -> None:
        """The policy is its reference (KL 0, ratio 1), our log-probabilities are the model's own, one base only."""
        table, prove = self._tables.train, self._context.events.prove
        prompts = [table.row(i)["prompt_ids"] for i in range(min(4, len(table)))]
        answers = [list(reversed(prompt))[:8] for prompt in prompts]  # any tokens will do
        batch = Batch.of(prompts, answers, self._pad_id, self.model.device)
        with torch.no_grad():
            mine, _ = self._roles.log_probs(batch, "policy", 1.0)
            reference, _ = self._roles.log_probs(batch, "reference", 1.0)
            logits_BLV = self.model(
                input_ids=batch.ids_BL, attention_mask=batch.attention_BL, use_cache=False
            ).logits
            full_BTV = torch.log_softmax(batch.before_answers(logits_BLV).float(), -1)
            theirs = full_BTV.gather(-1, batch.targets_BT[..., None])[..., 0] * batch.mask_BT
        prove("log_prob_difference", prove_equal("The chunked log-probability", theirs, mine, 1e-4))
        if self._stage.strategy.capabilities.identity_at_start:
            prove("reference_difference_nats", prove_unchanged(mine, reference))
        prove("copies_of_the_base", float(self._roles.copies_of_the_base() + self._judges.other_models))

    def answers_before(self) -> Sequence[str]:
        return self._answers_before

    def measure(self) -> Mapping[str, float]:
        """On held-out prompts, each answered from a fixed seed: reward, KL (nats per answer), length, own stops."""
        table = self._tables.held_out
        if table is None:
            return {}
        if not self._answers_before:
            samples = sample_answers(self.model, self._tokenizer, table)
            self._answers_before = [sample["answer"] for sample in samples]
        rows = range(min(_HELD_OUT_PROMPTS, len(table)))
        rollout = self._experience.answer(
            table, rows, [row_seed(self._context.seed, "held out", row) for row in rows]
        )
        return {
            "reward": fmean(rollout.scores),
            "kl": float(rollout.kl_N.mean()),
            "length": fmean(len(answer.ids) for answer in rollout.answers),
            "stopped": fmean(answer.stopped for answer in rollout.answers),
            "reward_std": pstdev(rollout.scores),
        }

    def fit(self, checkpoint: Path | None) -> None:
        context = self._context
        shutil.rmtree(context.folder / "scratch", ignore_errors=True)
        parameters = trained_parameters(self._roles)
        if checkpoint is not None:
            self._progress = load_state(checkpoint, parameters, self._updater.optimizer)
            self._updater.skip_to(self._progress.rate_steps)
        context.events.begin_steps(self._progress.step, self._steps)
        self._history: list[Mapping[str, Any]] = list(context.events.history())
        every = min(500, max(1, self._steps // 10))
        try:
            while self._progress.step < self._steps:
                first = self._progress.step == 0
                glance = _Glance(parameters) if first else None
                self._one_step()
                if glance is not None:
                    context.events.prove("parameters_moved", float(glance.moved()))
                stopping = context.stop.requested
                if stopping or self._progress.step % every == 0:
                    save_state(context.folder / "checkpoints", context.folder / "scratch", self._progress,
                               parameters, self._updater.optimizer)  # fmt: skip
                context.stop.raise_if_requested(f"in stage {context.name} after step {self._progress.step}")
        except Exception as error:
            if isinstance(error, DiskSpaceError) or not is_disk_full(error, context.folder):
                raise
            raise disk_full(context) from error

    def closing_numbers(self) -> Mapping[str, float]:
        return {
            "steps": float(self._progress.step),
            "kl_coef": self._progress.controller.coefficient,
            "alarms": float(len(self._context.events.alarms())),
        }

    def _one_step(self) -> None:
        """One rollout and the updates on it; `progress` moves at the end, when all of it is done."""
        step, arguments, seed = self._progress.step, self._arguments, self._context.seed
        begun = time.monotonic()
        rows = self._rows_of(step)
        rollout = self._experience.answer(
            self._tables.train, rows, [row_seed(seed, step, place, row) for place, row in enumerate(rows)]
        )
        answered = time.monotonic()
        scored, moments, numbers = self._experience.prepare(
            rollout, self._progress.controller, self._progress.moments
        )
        ready = time.monotonic()
        generator = torch.Generator().manual_seed(row_seed(seed, step, "order") % 2**63)
        tally = self._updater.learn(
            scored, micro_batch=self._stage.batch_size, pad_id=self._pad_id, generator=generator,
            critic_alone=step < arguments.value_warmup_steps,
        )  # fmt: skip
        done = time.monotonic()
        tokens = sum(len(answer.ids) for answer in rollout.answers)
        numbers |= tally.metrics() | {
            "kl_coef": self._progress.controller.coefficient,
            "learning_rate": self._updater.learning_rate,
            "seconds_rollout": answered - begun, "seconds_scoring": ready - answered, "seconds_update": done - ready,
            "tokens_per_second": tokens / (done - begun),
            "samples_per_second": len(rows) / (done - begun),
        }  # fmt: skip
        self._progress = replace(
            self._progress, step=step + 1, moments=moments,
            controller=self._progress.controller.updated(numbers["kl"], len(rows)),
            rate_steps=self._progress.rate_steps + tally.steps,
        )  # fmt: skip
        self._context.events.step(step + 1, numbers)
        self._history.append(numbers)
        for name, text in alarms(self._history):
            self._context.events.alarm(step + 1, name, text)
        if not all(
            torch.isfinite(p).all() for p in (*self._roles.policy_parameters, *self._roles.critic_parameters)
        ):
            raise TrainingDivergedError(
                f"After step {step + 1} a trained parameter is no finite number; nothing of this step is saved. Lower "
                "learning_rate."
            )

    def _rows_of(self, step: int) -> list[int]:
        """The prompts of a step: the next ones of an endless row of permutations."""
        size, count = self._stage.rollout_size, len(self._tables.train)
        rows = []
        for place in range(step * size, (step + 1) * size):
            epoch, at = divmod(place, count)
            rows.append(_permutation(count, row_seed(self._context.seed, "epoch", epoch) % 2**63)[at])
        return rows


class _Glance:
    """Whether parameters have changed since, seen from a copy of a few of their values."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._before = {name: p.detach().reshape(-1)[:4096].clone() for name, p in parameters.items()}

    def moved(self) -> int:
        """How many of them.

        Raises NothingTrainedError when none has.
        """
        from posttrain.errors import NothingTrainedError

        moved = sum(
            not torch.equal(p.detach().reshape(-1)[:4096], self._before[name])
            for name, p in self._parameters.items()
        )
        if not moved:
            raise NothingTrainedError(
                f"After the first rollout none of the {len(self._parameters)} trainable parameters has changed; look at "
                "learning_rate, and whether every answer gets the same reward."
            )
        return moved


def _permutation(count: int, seed: int) -> list[int]:
    return list(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())
