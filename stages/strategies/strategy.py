"""What a strategy is: which parameters a stage trains, and what may be done with the result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
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
    reference_copy: bool = (
        False  # the reference is a frozen copy of its start: the model without it is another one
    )
    has_reference: bool = (
        True  # what it started from can be had again while it trains; DPO, KTO, PPO ... ask for it
    )
    online: bool = True  # can answer prompts while it trains: PPO, GRPO, RLOO
    plain_lora: bool = (
        False  # what it trains is A and B on the base as it is, which engines such as vLLM can serve
    )
    checkpointable: bool = True  # its activations can be computed again in the backward pass to save memory
    shardable: bool = True  # trains where FSDP divides the model over the processes


@dataclass(frozen=True)
class Strategy(CheckedSettings):
    """Base class of strategies. It knows PEFT, not TRL."""

    capabilities: ClassVar[Capabilities]
    learning_rate_factor: ClassVar[float]  # against the stage's rate for full fine-tuning

    def __str__(self) -> str:
        """As it would be written: LoRA(r=16, alpha=32), without what is at its default but the rank."""
        own = [(field, getattr(self, field.name)) for field in fields(self)]
        written = [f"{f.name}={value!r}" for f, value in own if f.name == "r" or value != f.default]
        return f"{type(self).__name__}({', '.join(written)})"

    @abstractmethod
    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        """Make `model` trainable; adapters are drawn from `seed`. Returns the model to train."""

    def weights_dtype(self, on_gpu: bool) -> torch.dtype:
        """The dtype in which the base is loaded."""
        import torch

        return torch.bfloat16 if on_gpu else torch.float32

    @property
    def by_depth(self) -> bool:
        """Whether it tells layers apart by their depth, which takes a model with one stack of them."""
        return False

    @property
    def adds_up(self) -> bool:
        """Whether what it leaves is A and B for the plain weights: several such adapters are one of the ranks' sum."""
        return False

    @property
    def joins_products(self) -> bool:
        """Whether each of its layers is one step of autograd on a CPU (joined_products.py), which leaves less memory idle."""
        return False

    @property
    def virtual_tokens(self) -> int:
        """Positions that the adapter takes in front of every sequence."""
        return 0

    def start(self, model: Any, rows: StartRows | None) -> None:
        """Put the fresh adapter of a wrapped model, whose weights are there, where training starts.

        rows: of the stage, where they have answers; None in stages that learn from their own answers.
        """
        return

    def rate_factors(self, model: Any) -> Mapping[str, float]:
        """Parameter name -> factor of the learning rate; names that are missing have 1."""
        return {}

    def optimizer(self, pageable: bool) -> str | None:
        """The optimizer by its name in transformers' TrainingArguments.optim; None leaves it to the trainer.

        pageable: whether its state can move to the CPU's memory, which takes a GPU, and the whole state on it.
        """
        return None

    def check_schedule(self, schedule: Schedule, layers: int) -> None:
        """Raises StrategyError for optimizer steps that the method cannot work with on a model of so many layers."""
        return

    def hooks(self, model: Any, schedule: Schedule) -> StepHooks:
        """What is done around every optimizer step; called when the model stands where training starts."""
        return StepHooks()

    @property
    def base_format(self) -> Literal["nf4", "int8"] | None:
        """What the frozen weights are quantised to while it trains."""
        return None

    def read_back(self, model: Any, folder: Path) -> Any:
        """The adapter that a stage with this strategy left in `folder`, on its base and ready to be trained on."""
        from ...pipeline.adapters import read_adapter

        return read_adapter(model, folder, trainable=True)

    def prepare_base(self, model: Any) -> Any:
        """Change the base before it is wrapped or before its adapter is loaded, as QLoRA does."""
        return model


@dataclass(frozen=True)
class Schedule:
    """The optimizer steps of a stage."""

    total: int
    per_epoch: float


class StepHooks:
    """What a strategy does around the optimizer steps, and what of it a checkpoint must hold. This one: nothing."""

    def begin(self, step: int) -> None:
        """Before the first step of this process, when `step` are done; the optimizer is made, a checkpoint loaded."""

    def before_step(self) -> None:
        """When the gradients are ready and clipped."""

    def after_step(self, step: int) -> None:
        """When the optimizer has made step number `step`, from 1; the gradients are still there."""

    def numbers(self) -> Mapping[str, float]:
        """For the stage's metrics."""
        return {}

    def state(self) -> Mapping[str, torch.Tensor]:
        """For the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave, before `begin`."""

    def finish(self, folder: Path) -> None:
        """Make the files that PEFT wrote of the trained adapter into what is handed over."""


class StartRows(Protocol):
    """A few of a stage's rows in batches, for a start that depends on them."""

    def batches(self) -> Iterable[Mapping[str, torch.Tensor]]:
        """What the model is called with: input_ids and attention_mask, (B, T) each, and labels where it takes them."""

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The stage's loss of a batch: a scalar with gradients."""
