"""What happens at each step of a TRL trainer: numbers out, checkpoints committed, proofs taken, signals heard."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from posttrain.errors import NothingTrainedError, TrainingDivergedError

from ..pipeline import Ranks
from ..pipeline.events import StageEvents
from ..pipeline.interrupt import StopRequest
from .checkpoints import commit_checkpoint
from .proofs import prove_first_loss
from .sharding import local
from .strategies import StepHooks
from .trl_trainers import RowRollouts

_NOT_PER_STEP = ("train_runtime", "total_flos", "train_loss")  # the Trainer's closing line


class Metrics(TrainerCallback):
    """Writes one line a step; stops a run whose loss is no number, or starts elsewhere than it must."""

    def __init__(self, events: StageEvents, first_loss: float | None) -> None:
        self._first_loss = first_loss  # what the loss of step 1 must be, None where nothing is known
        self.events = events
        self._tokens = 0.0
        self._time = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.events.begin_steps(state.global_step, state.max_steps, state.logging_steps)
        self._time = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if any(name in logs for name in _NOT_PER_STEP):
            return
        numbers = {name: float(value) for name, value in logs.items() if isinstance(value, (int, float, str))}
        now, tokens = time.monotonic(), numbers.get("num_tokens", 0.0)
        if tokens > self._tokens:
            numbers["tokens_per_second"] = round((tokens - self._tokens) / max(now - self._time, 1e-9), 1)
        self._time, self._tokens = now, tokens
        self.events.step(state.global_step, self.numbers(numbers))
        self.logged(state.global_step)
        if not math.isfinite(numbers.get("loss", 0.0)):
            raise TrainingDivergedError(
                f"The loss at step {state.global_step} is {numbers['loss']}; nothing of this step is saved. Lower "
                "learning_rate, or look for empty or extreme rows."
            )
        if self._first_loss is not None and state.global_step == 1:
            self.events.prove("first_loss", prove_first_loss(numbers["loss"], self._first_loss))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.events.sync()

    def numbers(self, logs: Mapping[str, float]) -> Mapping[str, float]:
        """What of a step is written down."""
        return logs

    def logged(self, step: int) -> None:
        """What else is done when a step is written down."""


STRATEGY_STATE = "strategy.safetensors"


class Hooks(TrainerCallback):
    """What the strategy does around each optimizer step; its state goes into the checkpoint. Stands before Commit."""

    def __init__(self, hooks: StepHooks, scratch: Path, ranks: Ranks) -> None:
        self._hooks, self._scratch, self._ranks = hooks, scratch, ranks

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hooks.begin(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hooks.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hooks.after_step(state.global_step + 1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from safetensors.torch import save_file

        folder = self._scratch / f"checkpoint-{state.global_step}"
        kept = {name: value.contiguous() for name, value in self._hooks.state().items()}
        if kept and self._ranks.main and folder.is_dir():
            save_file(kept, folder / STRATEGY_STATE)


class Commit(TrainerCallback):
    """Takes the folder that the Trainer wrote and commits it as a checkpoint."""

    def __init__(self, scratch: Path, checkpoints: Path, ranks: Ranks) -> None:
        self._scratch = scratch
        self._checkpoints = checkpoints
        self._ranks = ranks

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ranks.barrier()  # each rank writes its random state into the folder
        written = self._scratch / f"checkpoint-{state.global_step}"
        if self._ranks.main and written.is_dir():
            commit_checkpoint(written, self._checkpoints, state.global_step)
        self._ranks.barrier()


class SaveEarly(TrainerCallback):
    """Of several processes, the first state that can be gone on from is saved at once: what does not come together
    from all of them is then seen after one step, not after hundreds.
    """

    def __init__(self, ranks: Ranks, border: int) -> None:
        self._ranks = ranks
        self._border = border  # steps between the states that can be gone on from

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self._ranks.size > 1 and state.global_step == self._border:
            control.should_save = True
        return control


class Stop(TrainerCallback):
    """Ends training after the current optimizer step when a signal came, with a checkpoint."""

    def __init__(self, stop: StopRequest, border: int) -> None:
        self._stop = stop
        self._border = border  # steps between the states that can be gone on from

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step % self._border == 0 and self._stop.agreed():
            control.should_save = control.should_training_stop = True
        return control


class Moved(TrainerCallback):
    """Proof that training trains: after the first step with a learning rate, some parameter has another value."""

    def __init__(
        self, model: Any, events: StageEvents, ranks: Ranks, rollouts: RowRollouts | None = None
    ) -> None:
        self._model, self._events, self._ranks = model, events, ranks
        self._rollouts = rollouts
        self._wanted = False
        self._before: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # What was proven before a restart, the main rank alone knows; the proof is taken by all, or by none.
        self._wanted = self._ranks.share("parameters_moved" not in self._events.proofs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._wanted:
            self._before = {name: _glance(p) for name, p in self._model.named_parameters() if p.requires_grad}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if self._before is None:
            return
        rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else [1.0]
        now = {name: _glance(p) for name, p in self._model.named_parameters() if name in self._before}
        # Each rank may hold a part of a parameter only, or nothing of it.
        seen = self._ranks.gather([not _same(now[name], value) for name, value in self._before.items()])
        moved = sum(map(any, zip(*seen, strict=True)))
        self._before = None
        if moved:
            self._wanted = False
            self._events.prove("parameters_moved", moved)
        elif max(rates) > 0 and (self._rollouts is None or self._rollouts.teach()):
            raise NothingTrainedError(
                f"After step {state.global_step + 1} none of the {len(now)} trainable parameters has changed "
                f"(learning rate {max(rates):g}); the gradients do not reach them."
            )


def _glance(parameter: Any) -> Any:
    """A copy of up to 4096 evenly spread values: enough to see an optimizer step, cheap for a full model."""
    flat = local(parameter.detach()).reshape(-1)
    return flat[:: max(1, flat.numel() // 4096)].clone()


def _same(left: Any, right: Any) -> bool:
    import torch

    return torch.equal(left, right)
