"""A list of stages, checked when it is built, explained and planned without training, and run to the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from posttrain.errors import (
    GateError,
    PipelineError,
    RunFolderError,
)

from .allocator import freed_memory_kept
from .attempts import begin_attempt, break_off
from .base_models import check_base, look_at
from .checks import check_chain, check_heads
from .digests import digest_of
from .disk import check_disk
from .durable import named_disk_errors, read_sealed, remove_leftovers, write_sealed
from .engine import check_engine
from .events import StageEvents
from .heads import TRAINED_HEADS
from .interrupt import StopRequest
from .launch import Started, launched
from .lock import run_lock
from .memory_use import PeakMemory
from .model_folder import KINDS
from .model_ref import ModelRef
from .printing import print_plan, print_settings
from .progress import Display
from .quiet import quiet_libraries
from .ranks import Ranks
from .run import RUN_FILE, Run, StageRecord, remove_checkpoints
from .run_dir import check_run_dir
from .secrets import without_secrets
from .settings import as_plain, refuse_unknown
from .stage import Stage, StageContext, StagePlan, made_by
from .tracking import check_tracker, start_tracker
from .watchdog import Watchdog
from .watching import Watch

_ASKED = 6  # prompts that every later stage is asked, too
_VERSIONS_THAT_MATTER = ("torch", "transformers", "trl", "peft")


class Pipeline:
    """Stages in their order, from one starting model, in one run folder.

    >>> from posttrain import Pipeline, SFT, DPO, LoRA
    >>> lora = LoRA(r=16)
    >>> Pipeline([SFT(lora), DPO(lora)]).run()    # doctest: +SKIP

    stages: what is done, in this order; each goes on with the model that the one before it made.
    model: "embedded" (SmolLM2-135M-Instruct), "tiny-random", a folder, a Hub id, or the `ModelRef` of another run.
    run_dir: where everything is kept; None makes a folder below `runs/` named after the stages and settings.
    seed: one number for the whole chain; each stage derives its own from it and its name.
    track: "none", "wandb" or "tensorboard".

    Raises ConfigurationError for whatever can be known to be wrong without torch.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        model: str | Path | ModelRef = "embedded",
        *,
        run_dir: str | Path | None = None,
        seed: int = 0,
        track: str = "none",
        **unknown: Any,
    ) -> None:
        refuse_unknown("Pipeline", unknown, ("stages", "model", "run_dir", "seed", "track"))
        check_chain(stages)
        if isinstance(model, ModelRef):
            if model.head in TRAINED_HEADS:
                raise PipelineError(
                    f"A pipeline starts from a language model or an encoder, and the given ModelRef is {KINDS[model.head]}."
                )
            if model.adapters and not model.adapters[-1].mergeable:
                raise PipelineError(
                    f"The given ModelRef ends with the adapter {model.adapters[-1].folder}, whose kind cannot be merged, so "
                    "nothing can be trained on top of it; go on in the pipeline that made it, with handover='continue'."
                )
            check_heads(stages, model.base, model.head)
        else:
            check_heads(stages, model, look_at(model))
            check_base(model)
        check_tracker(track)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise PipelineError(f"seed={seed!r}: the seed is a whole number from 0.")
        resolved = tuple(stage.resolved(model) for stage in stages)
        if resolved != tuple(stages):
            check_chain(resolved)
        self.stages = tuple(stage.following(resolved[:place]) for place, stage in enumerate(resolved))
        self.model = model
        self.seed = seed
        self.track = track
        self.run_dir = (
            Path(run_dir).expanduser().resolve() if run_dir is not None else self._default_run_dir()
        )
        if self.run_dir.exists():
            self._check_run_dir()

    @staticmethod
    def load(run_dir: str | Path) -> Run:
        """The Run in a folder, in another process, on another day."""
        return Run.load(run_dir)

    def explain(self) -> None:
        """Print each resolved setting of each stage and where it came from."""
        print_settings([(stage.title, type(stage).__name__, stage.settings()) for stage in self.stages])

    def plan(self, *, shown: bool = True) -> list[StagePlan | None]:
        """Print, and return, what each stage will cost: rows, tokens, steps, parameters, memory, disk. No weights."""
        with quiet_libraries():
            start = self._start()
            plans = [stage.plan({"policy": start}) for stage in self.stages]
        if shown:
            print_plan([stage.title for stage in self.stages], plans)
        return plans

    def run(self, started: Started | None = None) -> Run:
        """Train what is not finished, and return the whole run.

        started: how, for `posttrain resume`; None finds out which script Python runs.

        Finished stages whose key has not changed are verified and skipped; a killed stage goes on from its newest
        whole checkpoint. Raises RunInterrupted (exit code 75) after SIGTERM or Ctrl-C.
        """
        ranks = Ranks.of_environment()
        check_engine()
        if ranks.sharding is not None:
            for stage in self.stages:
                stage.check_sharded()
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"The run folder {self.run_dir} cannot be made ({error.strerror}); choose another run_dir."
            ) from error
        ranks.connect()
        with (
            run_lock(self.run_dir) if ranks.main else nullcontext(),
            Watchdog(ranks, self.run_dir),
            self._launched(ranks, started),
            named_disk_errors(self.run_dir),
            StopRequest(ranks) as stop,
            Display([s.title for s in self.stages], shown=ranks.main) as display,
        ):
            if ranks.main:
                remove_leftovers(self.run_dir)
            ranks.check_shared(self.run_dir)
            start = self._start()
            roles: dict[str, ModelRef] = {"policy": start}
            entries: list[dict[str, str]] = []
            plans: dict[str, StagePlan | None] | None = None
            asked: tuple[str, ...] = ()
            watch = Watch(self.run_dir, display.note) if ranks.main else None
            for position, stage in enumerate(self.stages):
                key = self._key(stage, roles)
                folder = self.run_dir / "stages" / f"{stage.title}-{key[:12]}"
                entries.append({"name": stage.title, "folder": folder.relative_to(self.run_dir).as_posix()})
                record = ranks.share(self._finished(folder) if ranks.main else None)
                if record is not None:
                    display.skip_stage(position)
                else:
                    if ranks.main:
                        if plans is None:  # everything is read and checked before the first stage trains
                            plans = self._plans_from(position, start)
                        self._write_run_file(start, entries)
                    display.begin_stage(position)
                    opened = _Opened(folder, roles, start, asked, (plans or {}).get(stage.title), watch)
                    record = self._run_stage(stage, key, opened, stop, display, ranks)
                    display.end_stage(_headline(record))
                    if watch:
                        watch.now()
                roles.update({made_by(role, stage.title): model for role, model in record.models.items()})
                if reason := self._verdict(stage, record, start, entries, ranks):
                    entries[-1]["rolled_back"] = reason
                    display.note(f"{reason}; the chain goes on from the model before it")
                else:
                    roles.update(record.models)
                if "policy" in record.models:
                    prompts = dict.fromkeys((*asked, *(sample["prompt"] for sample in record.samples)))
                    asked = tuple(prompts)[:_ASKED]
            if ranks.main:
                self._write_run_file(start, entries)
            if watch and plans is None:  # nothing was trained, and the page may be of an older pipeline
                watch.now()
            ranks.barrier()
        return Run.load(self.run_dir)

    def _launched(self, ranks: Ranks, started: Started | None) -> AbstractContextManager[None]:
        """Keeps how the run was started and how it ends, in a folder that is ours."""
        if not ranks.main:
            return nullcontext()
        self._check_run_dir()
        titles = [stage.title for stage in self.stages]
        return launched(self.run_dir, titles, started or Started.by_this_process())

    def _verdict(
        self,
        stage: Stage,
        record: StageRecord,
        start: ModelRef,
        entries: Sequence[Mapping[str, str]],
        ranks: Ranks,
    ) -> str | None:
        """As `Stage.verdict`; where it stops the chain, the run folder shows the stage."""
        try:
            return stage.verdict(record.metrics)
        except GateError:
            if ranks.main:
                self._write_run_file(start, entries)
            raise

    def _finished(self, folder: Path) -> StageRecord | None:
        """The record of a stage that is finished, verified."""
        record = StageRecord.read(folder, self.run_dir)
        if record is not None:
            record.verify()
            remove_checkpoints(folder)  # a kill may have come between the record and this
        return record

    def _run_stage(
        self, stage: Stage, key: str, opened: _Opened, stop: StopRequest, display: Display, ranks: Ranks
    ) -> StageRecord:
        folder, roles, watch = opened.folder, opened.roles, opened.watch
        stop.raise_if_requested(f"before stage {stage.title}")
        if ranks.main:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        settings = [
            as_plain(one) | {"value": without_secrets({one.name: as_plain(one.value)})[one.name]}
            for one in stage.settings()
        ]
        config = {
            "type": type(stage).__name__,
            "seed": self.seed,
            "settings": {setting["name"]: setting["value"] for setting in settings},
            "lineage": without_secrets(
                {role: roles[role].as_dict(self.run_dir) for role in ("policy", *stage.needs)}
            ),
        }
        seed = stage_seed(self.seed, stage.title)
        if ranks.main:
            begin_attempt(folder, type(stage).__name__, settings, opened.plan, seed)
        track = self.track if ranks.main else "none"
        tracker = start_tracker(track, self.run_dir.name, stage.title, key, config, folder)
        begun = time.monotonic()
        events = StageEvents.of(ranks, folder, display, tracker, watch.changed if watch else lambda: None)
        context = StageContext(
            name=stage.title, folder=folder, inputs=dict(roles), seed=seed, events=events, stop=stop, ranks=ranks,
            asked=opened.asked, start=opened.start,
        )  # fmt: skip
        ranks.barrier()
        import datasets  # noqa: F401  # the trainers show its bars, which are silenced only where it is loaded

        try:
            with quiet_libraries(), freed_memory_kept():
                peak = PeakMemory()
                result = stage.run(context)
        except BaseException as error:
            tracker.finish({})
            if watch:
                break_off(folder, error)
                watch.now()
            raise
        if not ranks.main:
            return ranks.share(None)  # type: ignore[return-value]
        record = StageRecord(
            name=stage.title, type=type(stage).__name__, key=key, folder=folder, models=dict(result.models),
            metrics=dict(result.metrics), data=dict(result.data), proofs=dict(result.proofs),
            samples=[dict(sample) for sample in result.samples], settings=settings,
            seconds=round(time.monotonic() - begun, 3), intervals=dict(result.intervals),
            measured=_measured(peak, folder),
        )  # fmt: skip
        record.write(self.run_dir)
        remove_checkpoints(folder)
        tracker.finish(record.metrics)
        return ranks.share(record)

    def _plans_from(self, position: int, start: ModelRef) -> dict[str, StagePlan | None]:
        with quiet_libraries():
            plans = {stage.title: stage.plan({"policy": start}) for stage in self.stages[position:]}
        check_disk(self.run_dir, sum(plan.disk_bytes for plan in plans.values() if plan))
        return plans

    def _start(self) -> ModelRef:
        if isinstance(self.model, ModelRef):
            return self.model
        start = ModelRef.of_base(self.model)
        check_heads(self.stages, self.model, start.head)  # of a Hub id nobody knew it before
        return start

    def _key(self, stage: Stage, roles: Mapping[str, ModelRef]) -> str:
        """Changes exactly when the stage's result could: settings, models, tokenizer, data, seed, ranks, versions."""
        size = Ranks.of_environment().size
        return digest_of(
            {
                "stage": stage.identity(),
                "type": type(stage).__name__,
                "models": {role: roles[role].fingerprint for role in stage.needs},
                "tokenizer": roles["policy"].find().tokenizer_fingerprint,
                "seed": stage_seed(self.seed, stage.title),
                **({"ranks": size} if size > 1 else {}),
                "versions": {name: _version(name) for name in _VERSIONS_THAT_MATTER},
            }
        )

    def _default_run_dir(self) -> Path:
        names = "-".join(stage.title for stage in self.stages)
        plain = [(stage, as_plain(stage)) for stage in self.stages]
        settings = [{k: v for k, v in each.items() if k not in stage.unkeyed} for stage, each in plain]
        written = settings, str(self.model), self.seed
        return Path("runs").resolve() / f"{names[:60]}-{digest_of(written)[:8]}"

    def _check_run_dir(self) -> None:
        check_run_dir(self.run_dir, [stage.title for stage in self.stages], self._model_name())

    def _model_name(self) -> str:
        return self.model.fingerprint if isinstance(self.model, ModelRef) else str(self.model)

    def _write_run_file(self, start: ModelRef, entries: Sequence[Mapping[str, str]]) -> None:
        value: dict[str, Any] = {
            "posttrain": _version("posttrain"),
            "pipeline": [stage.title for stage in self.stages],
            "model": self._model_name(),
            "seed": self.seed,
            "start": start.as_dict(self.run_dir),
            "stages": [dict(entry) for entry in entries],
        }
        path = self.run_dir / RUN_FILE
        if not path.exists() or read_sealed(path) != value:
            write_sealed(path, value)


@dataclass(frozen=True)
class _Opened:
    """What a stage finds when its turn comes."""

    folder: Path
    roles: Mapping[str, ModelRef]
    start: ModelRef
    asked: tuple[str, ...]
    plan: StagePlan | None
    watch: Watch | None  # None on a rank that does not write


def _measured(peak: PeakMemory, folder: Path) -> dict[str, int]:
    """What the stage took, before its checkpoints are removed."""
    held = peak.bytes()
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"disk_bytes": disk} | ({} if held is None else {"peak_memory_bytes": held})


def stage_seed(seed: int, title: str) -> int:
    """A stage's own seed, below 2**31: so that adding a stage does not change the ones beside it."""
    return int(digest_of([seed, title])[:8], 16) & 0x7FFFFFFF


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[
            0
        ]  # the build (+cpu, +cu130) is the machine's, not the result's
    except PackageNotFoundError:
        return "uninstalled"


def _headline(record: StageRecord) -> str:
    found = [
        f"{one.name} {one.before:.3f} -> {one.after:.3f}" + " (inside the noise)" * one.is_noise
        for one in record.changes
    ] or [f"{name} {record.metrics[name]:.3f}" for name in record.intervals]
    return "  ".join(found[:2])
