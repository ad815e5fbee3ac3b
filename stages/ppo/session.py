"""PPO from the first rollout to the last: answer, score, learn, watch, save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.errors import DiskSpaceError, NothingTrainedError, SamplerError, TrainingDivergedError

from ...pipeline import StageContext
from ...pipeline.allocator import give_back_freed_memory
from ...pipeline.durable import is_disk_full
from ..intervals import Measured
from ..online.health import alarms
from ..online.rollouts import Rollouts
from ..online.sampling import row_seed
from ..planner import tables_of, wants_checkpointing
from ..token_tables import Tables
from ..trl_session import disk_full
from .experience import prepare
from .pretraining import PretrainingRows
from .state import fresh_progress, load_state, save_state, trained_parameters
from .update import Updater

if TYPE_CHECKING:
    from .stage import PPO


class PPOSession:
    """Owns everything that changes while policy and critic train."""

    def __init__(self, stage: PPO, context: StageContext, tables: Tables, tokenizer: Any) -> None:
        self._stage, self._context, self._tables = stage, context, tables
        self._arguments = stage.arguments
        self._rollouts = Rollouts(stage, context, tokenizer, stage.critic)
        self._roles, self.model = self._rollouts.roles, self._rollouts.policy
        self._steps = stage.steps(len(tables.train))
        schedule = stage.schedule(len(tables.train))
        source = context.inputs["policy"]
        longest = stage.longest_sequence(tables.report.length_max)
        self.recomputes = wants_checkpointing(stage, source, longest)
        if self.recomputes:
            self._roles.recompute_activations()
        request, self._pretraining = stage.ptx_request, None
        if request is not None:
            self._pretraining = tables_of(request, source)
        self._updater = Updater(self._roles, stage, schedule, context.ranks, self._pretraining_rows())
        self.hooks = self._updater.hooks
        self._progress = fresh_progress(stage.kl_coef, stage.target_kl, self._arguments.kl_horizon)

    def _pretraining_rows(self) -> PretrainingRows | None:
        if self._pretraining is None:
            return None
        seed = row_seed(self._context.seed, "pretraining")
        return PretrainingRows(self._pretraining.train, self._stage.ptx_coef, seed, self._rollouts.pad_id)

    def prove_start(self) -> None:
        self._rollouts.prove_start(self._tables.train, self._context.events.prove)

    def measure(self) -> Sequence[Measured]:
        return self._rollouts.measure(self._tables.held_out)

    def fit(self, checkpoint: Path | None) -> None:
        context = self._context
        if context.ranks.main:
            shutil.rmtree(context.folder / "scratch", ignore_errors=True)
        parameters = trained_parameters(self._roles)
        if checkpoint is not None:
            self._progress = load_state(checkpoint, parameters, self._updater.optimizer, self.hooks)
            self._updater.skip_to(self._progress.rate_steps)
        self.hooks.begin(self._progress.rate_steps)
        context.events.begin_steps(self._progress.step, self._steps)
        self._history: list[Mapping[str, Any]] = list(context.events.history())
        every = min(500, max(1, self._steps // 10))
        try:
            while self._progress.step < self._steps:
                unproven = "parameters_moved" not in context.events.proofs
                glance = _Glance(parameters) if unproven else None
                self._one_step()
                if glance is not None and (moved := glance.moved()):
                    context.events.prove("parameters_moved", float(moved))
                elif (
                    glance is not None and self._history[-1]["reward_std"] > 0
                ):  # else nothing was to be learned
                    raise NothingTrainedError(
                        f"After step {self._progress.step} none of the {len(parameters)} trainable parameters has "
                        "changed, though the answers got different rewards; look at learning_rate."
                    )
                stopping = context.stop.agreed()
                if stopping or self._progress.step % every == 0:
                    self._save(parameters)
                if stopping:
                    context.stop.raise_if_requested(
                        f"in stage {context.name} after step {self._progress.step}"
                    )
        except SamplerError:
            self._save(parameters)  # it comes between two updates: nothing is half done
            raise
        except Exception as error:
            if isinstance(error, DiskSpaceError) or not is_disk_full(error, context.folder):
                raise
            raise disk_full(context) from error

    def _save(self, parameters: Mapping[str, Any]) -> None:
        folder = self._context.folder
        if self._context.ranks.main:
            self._context.events.sync()
            save_state(folder / "checkpoints", folder / "scratch", self._progress, parameters,
                       self._updater.optimizer, self.hooks)  # fmt: skip

    def closing_numbers(self) -> Mapping[str, float]:
        return {
            "steps": float(self._progress.step),
            "kl_coef": self._progress.controller.coefficient,
            "alarms": float(len(self._context.events.alarms())),
            **self._pretraining_account(),
            **self.hooks.numbers(),
        }

    def _pretraining_account(self) -> Mapping[str, float]:
        if self._pretraining is None:
            return {}
        report = self._pretraining.report
        return {"ptx_rows": float(report.rows_kept), "ptx_rows_dropped": float(report.rows_dropped)}

    def _one_step(self) -> None:
        """One rollout and the updates on it; `progress` moves at the end, when all of it is done."""
        step, arguments, seed = self._progress.step, self._arguments, self._context.seed
        begun = time.monotonic()
        rows = self._rows_of(step)
        sampled = self._rollouts.sampled(
            self._tables.train, rows, [row_seed(seed, step, place, row) for place, row in enumerate(rows)]
        )
        answered = time.monotonic()
        rollout = self._rollouts.scored(self._tables.train, rows, sampled)
        scored, moments, numbers = prepare(
            self._rollouts, rollout, self._stage, self._progress.controller, self._progress.moments
        )
        give_back_freed_memory()  # keys, values and merged weights, in whose places no activations fit
        ready = time.monotonic()
        generator = torch.Generator().manual_seed(row_seed(seed, step, "order") % 2**63)
        longest = max(len(p) + len(a) for p, a in zip(scored.prompts, scored.answers, strict=True))
        hidden, on_gpu = self.model.config.get_text_config().hidden_size, self.model.device.type != "cpu"
        micro_batch = self._stage.rows_at_once(longest, hidden, on_gpu)
        tally = self._updater.learn(
            scored, micro_batch=micro_batch, pad_id=self._rollouts.pad_id, generator=generator,
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
        """The prompts of a step, each as often as it is answered: the next ones of an endless row of permutations."""
        size, count = self._stage.prompts_per_rollout, len(self._tables.train)
        rows = []
        for place in range(step * size, (step + 1) * size):
            epoch, at = divmod(place, count)
            row = _permutation(count, row_seed(self._context.seed, "epoch", epoch) % 2**63)[at]
            rows += [row] * self._stage.num_generations
        return rows


class _Glance:
    """Whether parameters have changed since, seen from a copy of a few of their values."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._before = {name: p.detach().reshape(-1)[:4096].clone() for name, p in parameters.items()}

    def moved(self) -> int:
        """How many of them."""
        return sum(
            not torch.equal(p.detach().reshape(-1)[:4096], self._before[name])
            for name, p in self._parameters.items()
        )


def _permutation(count: int, seed: int) -> list[int]:
    return list(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())
