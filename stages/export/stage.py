"""The stage that writes a model for others to use; it makes no new one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from posttrain.errors import SettingError, StrategyError

from ...pipeline import Run, Setting, Stage, StageContext, StageResult
from ...pipeline.model_folder import Head
from ...pipeline.settings import check_choice, check_number, refuse
from ..training_stage import TrainingStage
from .llama_cpp import QUANTISATIONS, check_llama_cpp

Format = Literal["merged", "adapter", "gguf"]
Exported = Literal["policy", "reward", "classifier", "token_classifier"]
DTYPES: Mapping[Format, tuple[str, ...]] = {
    "merged": ("bf16", "f16", "f32"),
    "adapter": (),
    "gguf": ("f16", "f32", "q8_0"),
}
FOLDER = "export"  # in the stage's own
_SIZE = re.compile(r"\d+(\.\d+)?(KB|MB|GB)")


@dataclass(frozen=True)
class Export(Stage):
    """Writes the newest model of a role into the stage's folder, reads it back in a fresh process, and compares.

    format: "merged" (safetensors, all adapters in the weights), "adapter" (PEFT's files alone), or "gguf".
    dtype: of the weights: "bf16", "f16", "f32"; of GGUF "f16", "f32", "q8_0", with llama_cpp any name of llama-quantize.
    None is bf16, of GGUF f16; an adapter stays as it was trained.
    model: "policy", "reward", "classifier" or "token_classifier".
    shard_size: of one weight file, as in "500MB".
    max_drift: nats per token (of a reward model, a share of its mean score) that the export may be away from the
    trained model; None depends on dtype, see docs/export.md.
    llama_cpp: a llama.cpp checkout whose own converter is run, for GGUF of other models or in other quantisations.

    >>> Export("gguf", dtype="q8_0")     # doctest: +SKIP
    """

    format: Format = "merged"
    dtype: str | None = field(default=None, kw_only=True)
    model: Exported = field(default="policy", kw_only=True)
    shard_size: str = field(default="5GB", kw_only=True)
    max_drift: float | None = field(default=None, kw_only=True)
    llama_cpp: str | Path | None = field(default=None, kw_only=True)

    unkeyed: ClassVar[tuple[str, ...]] = ("max_drift",)

    def __post_init__(self) -> None:
        check_choice("Export", "format", self.format, get_args(Format))
        check_choice("Export", "model", self.model, get_args(Exported))
        check_number("Export", "max_drift", self.max_drift, above=0.0)
        if not isinstance(self.shard_size, str) or not _SIZE.fullmatch(self.shard_size):
            refuse("Export", "shard_size", self.shard_size, "a size such as '5GB' or '500MB'")
        if self.llama_cpp is not None and self.format != "gguf":
            raise SettingError(
                f"Export({self.format!r}): llama_cpp is a setting of 'gguf', leave it out here."
            )
        if self.dtype is not None:
            self._check_dtype()
        if self.format == "gguf" and self.model != "policy":
            raise SettingError(
                f"Export('gguf', model={self.model!r}): GGUF holds language models, a head would be dropped; take 'merged'."
            )
        if self.llama_cpp is not None:
            check_llama_cpp(Path(self.llama_cpp), self.dtype or "f16")

    def _check_dtype(self) -> None:
        own = DTYPES[self.format]
        if not own:
            raise SettingError(
                f"Export({self.format!r}): an adapter stays as it was trained; leave dtype out."
            )
        if self.format == "gguf" and self.llama_cpp is None and self.dtype in set(QUANTISATIONS) - set(own):
            raise SettingError(
                f"Export('gguf', dtype={self.dtype!r}): written here are {', '.join(own)}; for others give llama_cpp, the "
                "folder of a llama.cpp checkout."
            )
        check_choice("Export", "dtype", self.dtype, own if self.llama_cpp is None else QUANTISATIONS)

    @property
    def resolved_dtype(self) -> str:
        """As it stands in names and in the record."""
        if self.dtype is not None:
            return self.dtype
        return {"merged": "bf16", "adapter": "", "gguf": "f16"}[self.format]

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.model,)

    @property
    def heads(self) -> tuple[Head, ...]:  # type: ignore[override]
        return ("causal_lm",) if self.format == "gguf" else ()

    def check(self, before: Sequence[Stage]) -> None:
        stack = _trained_for(self.model, before)
        if not stack:
            if self.format == "adapter":
                raise StrategyError(
                    f"Stage {self.title}: no stage before it trains an adapter, so there is none to export."
                )
            return
        last = stack[-1]
        can, name = last.strategy.capabilities, type(last.strategy).__name__
        if self.format == "adapter" and can.makes_base:
            raise StrategyError(
                f"Stage {self.title}: {last.title} trains with {name}, which leaves a whole model and no adapter; take "
                "Export('merged')."
            )
        if self.format != "adapter" and not can.mergeable:
            raise StrategyError(
                f"Stage {self.title}: what {name} trains in {last.title} cannot be merged into the weights; take "
                "Export('adapter'), or another strategy there."
            )
        if self.format == "adapter" and len(stack) > 1:
            for one in stack:
                if not one.strategy.adds_up:
                    raise StrategyError(
                        f"Stage {self.title}: {len(stack)} adapters lie on each other, and only plain LoRA adapters add up to "
                        f"one; {one.title} trains with {one.strategy}. Take Export('merged'), or LoRA in all of them."
                    )

    def settings(self) -> tuple[Setting, ...]:
        shown = []
        for own in fields(self):
            value = getattr(self, own.name)
            if own.name != "name" and value is not None:
                plain = str(value) if isinstance(value, Path) else value
                shown.append(
                    Setting(own.name, plain, "default of Export" if value == own.default else "given")
                )
        if self.dtype is None and self.format != "adapter":
            shown.append(Setting("dtype", self.resolved_dtype, "default of Export"))
        return tuple(shown)

    def identity(self) -> Mapping[str, Any]:
        found = dict(super().identity())
        if self.llama_cpp is not None:
            found["llama_cpp"] = True  # where the checkout is changes nothing
        return found

    def run(self, context: StageContext) -> StageResult:
        from .source import source_of
        from .work import export_model

        if not context.ranks.main:
            return StageResult(models={})
        run = Run.load(context.folder.parents[1])
        source = source_of(run, context.inputs[self.model])
        done = export_model(self, source, context.folder / FOLDER, context.events.phase)
        for name, value in done.proofs.items():
            context.events.prove(name, value)
        context.events.say(f"{done.bytes / 1e6:.1f} MB in {done.folder}")
        return StageResult(models={}, metrics=done.metrics, proofs=context.events.proofs)


def _trained_for(role: Exported, before: Sequence[Stage]) -> list[TrainingStage]:
    """The stages whose adapters the role's model will hold, in order; one that trains a whole model comes first."""
    training = [one for one in before if isinstance(one, TrainingStage)]
    makers = [place for place, one in enumerate(training) if one.makes == role]
    if not makers:
        return []
    chain = [one for one in training[: makers[-1]] if one.makes == "policy"]
    stack: list[TrainingStage] = []
    for one in (*chain, training[makers[-1]]):
        if one.strategy.capabilities.makes_base:
            stack = [one]
        elif one.handover == "continue":
            stack[-1:] = [one]
        else:
            stack.append(one)
    return stack if len(stack) < 2 or not stack[0].strategy.capabilities.makes_base else stack[1:]
