"""What a stage is: frozen settings, the roles it needs and makes, and one method that does the work."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.errors import SettingError

from .interval import Interval
from .model_folder import Head
from .ranks import Ranks
from .settings import CheckedSettings, Setting, as_plain

if TYPE_CHECKING:
    from .events import StageEvents
    from .interrupt import StopRequest
    from .model_ref import ModelRef


def made_by(role: str, title: str) -> str:
    """The role of one stage's own model, for a later stage that needs this and not the newest one."""
    return f"{role}@{title}"


@dataclass(frozen=True)
class StageContext:
    """What the pipeline hands to a running stage."""

    name: str
    folder: Path  # the stage's own; everything it writes goes here
    inputs: Mapping[str, ModelRef]  # role -> newest model of it; and by `made_by`, each stage's own
    seed: int  # of this stage: from the pipeline's seed and the stage's name
    events: StageEvents  # metrics out
    stop: StopRequest  # a signal asked to end
    ranks: Ranks = field(
        default_factory=Ranks
    )  # the processes that run the stage together; the main one writes
    asked: tuple[str, ...] = ()  # rendered prompts that stages before answered, to be asked again
    start: ModelRef | None = None  # what the chain started from


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves: models by role, and numbers about them."""

    models: Mapping[str, ModelRef]
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)  # counts of kept, cut, dropped rows ...
    proofs: Mapping[str, float] = field(default_factory=dict)  # what the hand-over measured
    samples: Sequence[Mapping[str, str]] = ()  # {"prompt", "answer"}
    # By the name of a metric; "loss_change" is the paired difference of "loss_before" and "loss_after".
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class StagePlan:
    """What a stage will cost; estimated without loading weights."""

    rows_read: int  # of the stage's data; the counts below also hold windows of split rows
    rows: int  # trained on
    tokens: int
    trained_share: float  # of the tokens, 0 to 1
    cut: int  # of the rows trained on and held out
    dropped: int
    held_out: int
    steps: int
    trainable_parameters: int
    total_parameters: int
    memory_bytes: int
    disk_bytes: int
    notes: tuple[str, ...] = ()
    memory_parts: Mapping[str, int] = field(default_factory=dict)  # of memory_bytes, by name


@dataclass(frozen=True)
class Stage(CheckedSettings):
    """The one base class of stages. A subclass sets `needs` and `makes` and writes `run`.

    Roles, not stage names, join stages: `needs = ("policy", "reward")` is met by whatever stages before made them.
    name: of the stage in folders, reports and run["..."]; None is the class name in snake case.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[str | None] = None
    heads: ClassVar[tuple[Head, ...]] = ()  # the kinds of model that it can start from; () takes any
    # Settings that change no result: no part of the key, so that a stage whose others are the same is not run again.
    unkeyed: ClassVar[tuple[str, ...]] = ()
    name: str | None = field(default=None, kw_only=True)

    @property
    def title(self) -> str:
        """The stage's name in folders, reports and `run[...]`."""
        return self.name or title_of(type(self).__name__)

    @abstractmethod
    def run(self, context: StageContext) -> StageResult:
        """Do the work; raise a PosttrainError when it cannot be done."""

    def resolved(self, model: str | Path | ModelRef) -> Stage:
        """The stage with what it leaves open decided for the pipeline's model; most leave nothing open."""
        return self

    def following(self, before: Sequence[Stage]) -> Stage:
        """The stage with what it takes over from the stages before it; most take over models alone."""
        return self

    def check(self, before: Sequence[Stage]) -> None:
        """Refuse, without torch, what cannot work after the stages `before` this one."""

    def check_sharded(self) -> None:
        """Refuse, without torch, what cannot work where the launcher divides the model over the processes (FSDP)."""

    def settings(self) -> tuple[Setting, ...]:
        """Every resolved setting and where it came from."""
        plain = as_plain(self)
        return tuple(
            Setting(key, value, "given") for key, value in plain.items() if key not in ("type", "name")
        )

    def identity(self) -> Mapping[str, Any]:
        """What decides the result besides models, seed and versions; part of the cache key. Needs no torch."""
        return {key: value for key, value in as_plain(self).items() if key not in ("name", *self.unkeyed)}

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Why the previous model is handed on instead of the one made here; None where the stage's own is.

        Asked of the finished stage at every run, so that a changed gate needs no new training. Raises GateError where
        the chain must stop.
        """
        return None

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan | None:
        """What the stage will cost, or None when it has nothing to say."""
        return None


def title_of(kind: str) -> str:
    """The name of a stage without one, from its class: "RewardModel" is reward_model."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def check_title(title: str) -> None:
    """Raises SettingError unless the name can be a folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", title):
        raise SettingError(
            f"A stage cannot be called {title!r}; use up to 64 letters, digits, dots, dashes and underscores."
        )
