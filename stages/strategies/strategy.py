"""What a strategy is: which parameters a stage trains, and what may be done with the result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ...pipeline.settings import CheckedSettings

if TYPE_CHECKING:
    import torch

Task = Literal["policy", "reward", "classifier", "token_classifier", "seq2seq"]


@dataclass(frozen=True)
class Capabilities:
    """One row of the capability table; checked while the Pipeline is built."""

    mergeable: bool  # its result joins the weights, so any strategy may follow
    continuable: bool  # the next stage may train the same adapter on
    identity_at_start: bool  # the fresh policy is its reference, to the bit
    makes_base: bool = False  # trains the base itself, so the result is a new base
    four_bit_base: bool = False  # trains over a 4-bit base; the merge is measured
    several_at_once: bool = True  # a model can hold several of its adapters: PPO's roles share one base


@dataclass(frozen=True)
class Strategy(CheckedSettings):
    """Base class of strategies. It knows PEFT, not TRL."""

    capabilities: ClassVar[Capabilities]
    learning_rate_factor: ClassVar[float]  # against the stage's rate for full fine-tuning

    @abstractmethod
    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        """Make `model` trainable; adapters are drawn from `seed`. Returns the model to train."""

    def weights_dtype(self, on_gpu: bool) -> torch.dtype:
        """The dtype in which the base is loaded."""
        import torch

        return torch.bfloat16 if on_gpu else torch.float32

    def check_steps(self, total: int) -> None:
        """Raises StrategyError for a number of optimizer steps that the method cannot work with."""
        return

    def hooks(self, model: Any, total_steps: int) -> StepHooks | None:
        """What is done at every optimizer step of `total_steps`; None where nothing is."""
        return None

    def prepare_base(self, model: Any) -> Any:
        """Change the base before it is wrapped or before its adapter is loaded, as QLoRA does."""
        return model


class StepHooks(Protocol):
    """What a strategy does around each optimizer step, and what of it a checkpoint must hold."""

    def before_step(self) -> None:
        """When the gradients are ready and clipped."""

    def after_step(self, step: int) -> None:
        """When the optimizer has made step number `step`, from 1; the gradients are still there."""

    def numbers(self) -> Mapping[str, float]:
        """For the stage's metrics."""

    def state(self) -> Mapping[str, torch.Tensor]: ...

    def restore(self, state: Mapping[str, torch.Tensor]) -> None: ...


def capability_table() -> list[tuple[str, Capabilities]]:
    """(strategy name, capabilities) of every shipped strategy, for the docs and the command line."""
    from . import SHIPPED

    return [(kind.__name__, kind.capabilities) for kind in SHIPPED]
