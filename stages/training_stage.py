"""What all stages that train share: a strategy, data, about ten settings, and how they are resolved."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from posttrain.errors import SettingError, StrategyError

from ..data_formats import WAYS, DataSource, Kind, Overlong, detect
from ..data_formats.data import described
from ..pipeline import ModelRef, Ranks, Setting, Stage, StageContext, StagePlan, StageResult
from ..pipeline.model_folder import Head
from ..pipeline.settings import as_plain, check_choice, check_number, refuse
from .gates import GatedStage, OnRegression, check_forgetting_settings, regression
from .planner import Auto
from .sharding_checks import check_sharded
from .strategies import LoRA, Schedule, Strategy, Task
from .token_tables import Request
from .trl_api import check_trainer_args
from .trl_trainers import TrainerKind

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from .evaluation import Row
    from .intervals import Measured
    from .token_tables import Tables
    from .training import Session

Handover = Literal["merge", "continue"]


@dataclass(frozen=True)
class TrainingStage(GatedStage):
    """The common settings of the stages that train.

    strategy: what is trained. data: a file, a folder, a list of rows, Data(...) with settings, or a list of these
    to mix; None is the packaged sample.
    eval_data: held-out rows; None keeps 5 % of the data, at least 8 rows, out of training.
    learning_rate: peak; None takes the stage's rate for full tuning, times 10 for adapters.
    epochs: passes over the data. max_steps: optimizer steps, instead of epochs.
    batch_size: rows per device and step. gradient_accumulation: such batches per optimizer step.
    max_length: tokens per row. overlong: what to do with longer rows; "error" stops above 1 % of the rows.
    handover: "merge" puts the adapters made so far into the weights and trains a fresh one; "continue" trains the
    last adapter on.
    require: what must be reached on held-out rows, as in {"accuracy": 0.7}; see GatedStage.
    max_forgetting: nats per token of KL from the stage's input on neutral text that are allowed.
    on_regression: "stop" ends the chain where more was forgotten, "rollback" goes on from the model before the stage.
    trainer_args: any other field of TRL's config, by its name there.
    """

    strategy: Strategy = field(default_factory=LoRA)
    data: DataSource | None = field(default=None, kw_only=True)
    eval_data: DataSource | None = field(default=None, kw_only=True)
    learning_rate: float | None = field(default=None, kw_only=True)
    epochs: float | None = field(default=None, kw_only=True)
    max_steps: int | None = field(default=None, kw_only=True)
    batch_size: int = field(default=8, kw_only=True)
    gradient_accumulation: int = field(default=1, kw_only=True)
    max_length: int = field(default=1024, kw_only=True)
    overlong: Overlong | None = field(default=None, kw_only=True)
    handover: Handover = field(default="merge", kw_only=True)
    max_forgetting: float | None = field(default=None, kw_only=True)
    on_regression: OnRegression = field(default="stop", kw_only=True)
    trainer_args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    # Setting -> why auto(...) chose it.
    chosen: Mapping[str, str] = field(
        default_factory=dict, init=False, compare=False, repr=False, kw_only=True
    )

    needs: ClassVar[tuple[str, ...]] = ("policy",)
    makes: ClassVar[str] = "policy"
    heads: ClassVar[tuple[Head, ...]] = ("causal_lm",)
    unkeyed: ClassVar[tuple[str, ...]] = (*GatedStage.unkeyed, "max_forgetting", "on_regression")
    kind: ClassVar[Kind]
    trainer: ClassVar[TrainerKind]
    task: ClassVar[Task] = "policy"
    full_learning_rate: ClassVar[float]
    default_epochs: ClassVar[float] = 1.0
    default_overlong: ClassVar[Overlong] = "error"
    handovers: ClassVar[tuple[str, ...]] = ("merge", "continue")
    sequences_per_row: ClassVar[int] = 1  # 2: both answers of a pair go through the model together
    answers_questions: ClassVar[bool] = (
        False  # whether held-out rows are asked and judged by their format's metric
    )
    has_reference: ClassVar[bool] = False  # whether the loss compares the policy with itself as it started
    shardable: ClassVar[bool] = False  # whether it trains a model that FSDP divides over the processes

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if not isinstance(self.strategy, Strategy):
            made = f"{self.strategy.__name__}()" if isinstance(self.strategy, type) else "LoRA()"
            refuse(owner, "strategy", self.strategy, f"a strategy such as {made}")
        check_number(owner, "learning_rate", self.learning_rate, above=0.0, below=1.0)
        check_number(owner, "epochs", self.epochs, above=0.0)
        check_number(owner, "max_steps", self.max_steps, least=1, whole=True)
        for name in ("batch_size", "gradient_accumulation", "max_length"):
            value = getattr(self, name)
            if value is None:
                refuse(owner, name, value, "a whole number")
            check_number(owner, name, value, least=1, whole=True)
        if self.epochs is not None and self.max_steps is not None:
            raise SettingError(f"{owner}: epochs and max_steps are both given; leave one out.")
        if self.overlong is not None:
            check_choice(owner, "overlong", self.overlong, WAYS[self.kind])
        check_choice(owner, "handover", self.handover, self.handovers)
        check_forgetting_settings(owner, self.max_forgetting, self.on_regression, self.checks_forgetting)
        if not isinstance(self.trainer_args, Mapping):
            refuse(owner, "trainer_args", self.trainer_args, "a dict of TRL settings")
        self.check_trainer_args()

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        super().verdict(metrics)
        return regression(self.title, self.max_forgetting, self.on_regression, metrics)

    def check_trainer_args(self) -> None:
        """Raises SettingError for a key that the trainer's config has not, or that has its place elsewhere."""
        check_trainer_args(type(self).__name__, self.trainer, self.trainer_args)

    def check(self, before: Sequence[Stage]) -> None:
        """Data that can be read, and what the strategies allow: this stage's, and the hand-over to it."""
        self._check_strategy()
        for source in (self.request.source, self.request.eval_source):
            if source is not None:
                detect(source, self.kind)
        makers = [stage for stage in before if stage.makes == "policy"]
        if not makers or not isinstance(makers[-1], TrainingStage):
            if self.handover == "continue":
                raise StrategyError(
                    f"Stage {self.title}: handover='continue' needs a stage before it that trains an adapter; there is "
                    "none, so leave handover out."
                )
            return
        last = makers[-1]
        if self.handover == "continue" and last.on_regression == "rollback":
            raise StrategyError(
                f"Stage {self.title}: handover='continue' trains the adapter of {last.title} on, which "
                "on_regression='rollback' may put aside; use 'merge' here, or 'stop' there."
            )
        if self.handover == "continue":
            _check_continue(self, last)
        elif not last.strategy.capabilities.mergeable:
            way = "continue it with handover='continue', or " if "continue" in self.handovers else ""
            raise StrategyError(
                f"Stage {self.title} cannot follow {last.title}: what {type(last.strategy).__name__} trains cannot be "
                f"merged into the model; {way}use another strategy in {last.title}."
            )

    def _check_strategy(self) -> None:
        name, can = str(self.strategy), self.strategy.capabilities
        if self.has_reference and not can.has_reference:
            raise StrategyError(
                f"Stage {self.title} compares the policy with itself as it started, and {name} keeps nothing of that while "
                "it trains; use another strategy there, such as LoRA()."
            )
        if self.trainer_args.get("gradient_checkpointing") and not can.checkpointable:
            raise StrategyError(
                f"Stage {self.title}: trainer_args={{'gradient_checkpointing': True}} cannot be had with {name}, whose "
                "activations cannot be computed again; leave it out, or use another strategy."
            )

    def check_sharded(self) -> None:
        check_sharded(self)

    def resolved(self, model: str | Path | ModelRef) -> Stage:
        """With the strategy, batch and recomputation that auto(...) chooses for the model in its place."""
        if not isinstance(self.strategy, Auto):
            return self
        from ..pipeline.base_models import find_base
        from ..pipeline.quiet import quiet_libraries
        from .planner.auto import resolve

        with quiet_libraries():
            base = model.find() if isinstance(model, ModelRef) else find_base(model)
            return resolve(self, base.folder)

    @property
    def request(self) -> Request:
        """What decides the stage's token tables."""
        overlong = self.overlong or self.default_overlong
        return Request(self.data, self.eval_data, self.kind, self.max_length, overlong)

    def identity(self) -> Mapping[str, Any]:
        """Settings by value, data by content: the path of a file changes nothing."""
        plain = as_plain(self)
        hidden = (
            "name",
            "data",
            "eval_data",
            "max_length",
            "overlong",
            "learning_rate",
            "epochs",
            *self.unkeyed,
        )
        return {
            **{name: value for name, value in plain.items() if name not in hidden},
            "learning_rate": self.resolved_learning_rate,
            "epochs": self.resolved_epochs,
            "tables": self.request.identity(),
        }

    @property
    def resolved_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return float(f"{self.full_learning_rate * self.strategy.learning_rate_factor:.6g}")

    @property
    def resolved_epochs(self) -> float | None:
        """None when `max_steps` decides."""
        if self.max_steps is not None:
            return None
        return self.default_epochs if self.epochs is None else self.epochs

    def steps(self, rows: int) -> int:
        """Optimizer steps over `rows` rows of the token table, counted as the Trainer counts them."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(self._steps_per_epoch(rows) * (self.resolved_epochs or 1.0))

    def _steps_per_epoch(self, rows: int) -> int:
        batch = self.batch_size * Ranks.of_environment().size
        return max(1, math.ceil(math.ceil(rows / batch) / self.gradient_accumulation))

    def optimizer_steps(self, rows: int) -> int:
        """Of the trained parameters; more than `steps` where a step is a rollout with several updates."""
        return self.steps(rows)

    def schedule(self, rows: int) -> Schedule:
        """The optimizer steps as a strategy counts them."""
        total = self.optimizer_steps(rows)
        return Schedule(total, self._steps_per_epoch(rows) * total / self.steps(rows))

    @property
    def copies_reference(self) -> bool:
        """Whether the reference is a frozen copy of the adapter as it starts, and not the model without it."""
        return self.handover == "continue" or self.strategy.capabilities.reference_copy

    @property
    def split_share(self) -> float:
        """Of the activations of a step beside adapters, as much lies idle on a CPU: freed places between small tensors, in
        which no activations fit. Measured (benchmarks/memory.py, ppo.py): more where one micro-batch's gradients stay, and
        less where nothing is made between an adapter's products and the base's.
        """
        alone, accumulated = (0.1, 0.5) if self.strategy.joins_products else (0.5, 1.0)
        return alone if self.gradient_accumulation == 1 else accumulated

    @property
    def checkpoint_border(self) -> int:
        """Optimizer steps from one state that can be gone on from without a difference to the next."""
        return 1

    @property
    def head(self) -> Head:
        """Of the model that it makes."""
        heads: Mapping[Task, Head] = {"policy": "causal_lm", "seq2seq": "seq2seq_lm"}
        return heads.get(self.task) or cast(Head, self.task)

    @property
    def checks_forgetting(self) -> bool:
        """Whether the model that it makes is compared with the one it was given."""
        return self.makes == "policy" and self.task == "policy"

    @property
    def bases(self) -> int:
        """Copies of the model in memory: two where the reference cannot live in the trained one's adapters."""
        return 2 if self.has_reference and self.strategy.capabilities.makes_base else 1

    @property
    def trained_beside(self) -> Strategy | Literal["head"] | None:
        """What a second network on the same base is trained with; None without one."""
        return None

    def longest_sequence(self, longest_row: int) -> int:
        """Tokens of the longest sequence that goes through the model, from those of the data's longest row."""
        return min(longest_row, self.max_length) + self.strategy.virtual_tokens

    def rows_at_once(self, length: int, hidden: int, on_gpu: bool) -> int:
        """How many rows of `length` tokens go through a trained model of this hidden size together."""
        return self.batch_size

    def settings(self) -> tuple[Setting, ...]:
        from .machine import this_machine

        kind, strategy = type(self).__name__, type(self.strategy).__name__
        machine = this_machine()
        resolved = {
            "learning_rate": (self.resolved_learning_rate, f"default of {kind} with {strategy}"),
            "epochs": (
                self.resolved_epochs,
                f"default of {kind}" if self.max_steps is None else "max_steps decides",
            ),
            "overlong": (self.request.overlong, f"default of {kind}"),
            "data": (str(self.request.source), "packaged sample"),
            "eval_data": (
                "5 % of data, at least 8 rows; none of fewer than 16"
                if self.request.eval_source is None
                else str(self.request.eval_source),
                "default" if self.data is not None else "packaged sample",
            ),
        }
        rows = [Setting("strategy", str(self.strategy), "given")]
        for name, value in as_plain(self).items():
            if name in ("type", "name", "strategy", "trainer_args"):
                continue
            if name in resolved and value is None:
                rows.append(Setting(name, *resolved[name]))
            elif name in ("data", "eval_data"):  # rows in memory are data, not a setting to print
                rows.append(Setting(name, described(getattr(self, name)), "given"))
            else:
                own = self.__dataclass_fields__[name]
                default = own.default if own.default_factory is MISSING else own.default_factory()
                rows.append(Setting(name, value, f"default of {kind}" if value == default else "given"))
        rows.append(Setting("bf16", machine.bf16, f"this machine ({machine.name})"))
        checkpointing: tuple[Any, str] = ("auto", "on where the memory estimate of plan() asks for it")
        if not self.strategy.capabilities.checkpointable:
            checkpointing = (False, f"{strategy} cannot compute activations again")
        rows.append(Setting("gradient_checkpointing", *checkpointing))
        replaced = {name for name in self.trainer_args}
        rows = [row for row in rows if row.name not in replaced]
        rows += [Setting(name, as_plain(value), "trainer_args") for name, value in self.trainer_args.items()]
        return tuple(replace(row, source=self.chosen.get(row.name, row.source)) for row in rows)

    def trainer_arguments(self) -> Mapping[str, Any]:
        """What this kind of trainer needs besides the common arguments."""
        return {}

    def trainer_table(self, table: TokenTable) -> TokenTable:
        """The rows in the columns that the trainer reads."""
        return table

    @abstractmethod
    def measuring(
        self, model: Any, held_out: TokenTable, pad_id: int
    ) -> tuple[Measured, Callable[[Any], Measured]]:
        """Held-out numbers of the model as it starts, and the function that takes them again later."""

    @property
    def first_loss(self) -> float | None:
        """What the loss of step 1 must be; None where nothing is known about it."""
        return None

    def reference_rows(self, table: TokenTable) -> list[Row]:
        """Answers on which policy and reference must agree before step 1; none where there is no reference."""
        return []

    def open(self, context: StageContext, tables: Tables, tokenizer: Any) -> Session:
        """The model, loaded and made trainable, with what trains it."""
        from .trl_session import TrlSession

        return TrlSession.load(self, context, tables, tokenizer)

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        from .arguments import check_trainer_values
        from .planner import plan_stage

        plan = plan_stage(self, inputs["policy"])
        check_trainer_values(self)
        return plan

    def run(self, context: StageContext) -> StageResult:
        from .training import train

        return train(self, context)


def _check_continue(stage: TrainingStage, last: TrainingStage) -> None:
    if not last.strategy.capabilities.continuable:
        why = (
            "leaves no adapter to train on; leave handover out, the new base is taken over anyway"
            if last.strategy.capabilities.makes_base
            else "is not saved in the shape that it trains; leave handover out, it is merged and a fresh one trained"
        )
        raise StrategyError(
            f"Stage {stage.title}: handover='continue' after {last.title} is not possible, {last.strategy} {why}."
        )
    if stage.strategy != last.strategy:
        raise StrategyError(
            f"Stage {stage.title}: handover='continue' trains the adapter of {last.title} on, so both need the same "
            f"strategy; {last.title} has {last.strategy}, {stage.title} has {stage.strategy}."
        )
