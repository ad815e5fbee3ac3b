"""What CPT and SFT share: next-token training, into which earlier rows can be mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from posttrain.errors import SettingError

from ..data_formats import Overlong
from ..pipeline import Stage
from ..pipeline.settings import check_number, refuse
from .token_tables import Request
from .training_stage import TrainingStage
from .trl_trainers import TrainerKind


@dataclass(frozen=True)
class LanguageStage(TrainingStage):
    """replay: the share of the trained rows that comes from what CPT and SFT stages before it were trained on, 0 to 0.5.

    Rows of other stages are pairs, verdicts or prompts, which are not learned token by token.
    """

    replay: float = field(default=0.0, kw_only=True)
    # What it comes from, set by the Pipeline, which knows the stages before.
    replayed: tuple[Request, ...] = field(default=(), init=False, compare=False, repr=False, kw_only=True)

    trainer: ClassVar[TrainerKind] = "sft"
    full_learning_rate: ClassVar[float] = 2e-5
    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay is None:
            refuse(type(self).__name__, "replay", None, "a share from 0 to 0.5")
        check_number(type(self).__name__, "replay", self.replay, least=0.0, most=0.5)

    def check(self, before: Sequence[Stage]) -> None:
        super().check(before)
        if self.replay and not _earlier(before):
            raise SettingError(
                f"Stage {self.title}: replay={self.replay:g} mixes in rows of CPT and SFT stages before it, and there is none; "
                "leave it out, or mix files yourself with data=Data([...], weights=[...])."
            )

    def following(self, before: Sequence[Stage]) -> Stage:
        if not self.replay:
            return self
        stage = replace(self)
        object.__setattr__(stage, "chosen", self.chosen)
        object.__setattr__(
            stage, "replayed", tuple(self._as_here(one.own_request) for one in _earlier(before))
        )
        return stage

    def _as_here(self, request: Request) -> Request:
        """In rows no longer than this stage's own: longer texts are split, longer dialogues left out."""
        overlong: Overlong = "split" if request.kind == "text" else "drop"
        return replace(request, max_length=self.max_length, overlong=overlong)

    @property
    def own_request(self) -> Request:
        return super().request

    @property
    def request(self) -> Request:
        return replace(self.own_request, replay=self.replayed, replay_share=self.replay)


def _earlier(before: Sequence[Stage]) -> list[LanguageStage]:
    return [stage for stage in before if isinstance(stage, LanguageStage)]
