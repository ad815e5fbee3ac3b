"""The models that are served, by name: stages of runs as adapters on one base that is loaded once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.errors import ModelError, NoSuchStageError, RunFolderError, SettingError, StrategyError
from posttrain.pipeline import ModelRef, Run
from posttrain.pipeline.adapters import PROMPTS, kind_of
from posttrain.pipeline.plain_lora import PlainLora
from posttrain.pipeline.quiet import quiet_libraries
from posttrain.pipeline.run import RUN_FILE

if TYPE_CHECKING:
    from .dialogue import Speaker
    from .engine import Engine, Limits

BASE_NAME = "base"


@dataclass(frozen=True)
class Served:
    """One model: what answers for a name."""

    name: str
    ref: ModelRef
    engine: Engine
    speaker: Speaker
    adapter: str | None  # of the engine; None: its model as it is
    since: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970


class Bank:
    """Loads models and finds them again by name; safe to ask from several threads.

    whole: models that are no sum of plain LoRA adapters on the first base are loaded, too, each with weights of its own.
    """

    def __init__(self, limits: Limits | None = None, *, whole: bool = False) -> None:
        self._limits, self._whole = limits, whole
        self._engines: dict[str, tuple[Engine, Speaker]] = {}  # by the fingerprint of their model
        self._served: dict[str, Served] = {}
        self._aliases: dict[str, str] = {}
        self._changing = (
            threading.Lock()
        )  # one model is loaded or removed at a time; finding one waits for nobody

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def find(self, name: str) -> Served | None:
        return self._served.get(self._aliases.get(name, name))

    def add(self, name: str, ref: ModelRef, aliases: Sequence[str] = ()) -> Served:
        """Load a model under a name, every file of it verified.

        Raises SettingError when the name is taken, StrategyError for a model that would need weights of its own,
        WrongBaseError and CorruptArtifactError when its files are not what its run recorded.
        """
        with self._changing, quiet_libraries():
            if self.find(name):
                raise SettingError(
                    f"There is a model called {name!r} already; unload it first, or take another name."
                )
            engine, speaker, adapter = self._load(ref)
            served = Served(name, ref, engine, speaker, adapter)
            self._served[name] = served
            self._aliases = {**{alias: name for alias in aliases if alias != name}, **self._aliases}
            return served

    def remove(self, name: str) -> bool:
        """Forget a model; its adapter goes when the answers that use it are given. False: there is none of that name."""
        with self._changing:
            served = self.find(name)
            if served is None:
                return False
            if served.adapter is None:
                raise SettingError(f"{name!r} is a whole model and no adapter, so it stays.")
            del self._served[served.name]
            self._aliases = {alias: of for alias, of in self._aliases.items() if of != served.name}
            if all(one.adapter != served.adapter or one.engine is not served.engine for one in self):
                served.engine.remove(served.adapter)
            return True

    def close(self) -> None:
        for engine, _ in self._engines.values():
            engine.close()

    def _load(self, ref: ModelRef) -> tuple[Engine, Speaker, str | None]:
        if ref.head != "causal_lm":
            raise ModelError("Only causal language models are served.")
        same = next((one for one in self if one.ref.fingerprint == ref.fingerprint), None)
        if same is not None:
            return same.engine, same.speaker, same.adapter
        lora = None
        if ref.adapters:
            try:
                ref.verify()
                lora = PlainLora.of(ref)
            except StrategyError as reason:
                self._refuse_whole(ref, str(reason))
        stand = ref if lora is None else replace(ref, adapters=())
        if self._engines and stand.fingerprint not in self._engines:
            self._refuse_whole(ref, f"It stands on {stand.base}, which is another model than the base.")
        engine, speaker = self._engine(stand)
        return engine, speaker, None if lora is None else engine.add(lora)

    def _refuse_whole(self, ref: ModelRef, reason: str) -> None:
        if not self._whole:
            raise StrategyError(f"{reason} It can be served with weights of its own only: --whole.")
        if ref.adapters and kind_of(ref.adapters[-1].folder) in PROMPTS:
            raise StrategyError(
                f"{ref.adapters[-1].folder} holds trained prompts, which are no weights; it is not served."
            )

    def _engine(self, ref: ModelRef) -> tuple[Engine, Speaker]:
        from posttrain.pipeline.base_models import shared_tokenizer
        from posttrain.stages.online.sampling import stop_ids

        from .dialogue import Speaker
        from .engine import Engine

        if ref.fingerprint not in self._engines:
            model, speaker = ref.load_model(), Speaker(shared_tokenizer(ref.find().folder))
            stops = {*stop_ids(model, speaker.tokenizer), speaker.end_of_turn} - {None}
            engine = Engine(model, [int(one) for one in stops if one is not None], self._limits)
            self._engines[ref.fingerprint] = engine, speaker
        return self._engines[ref.fingerprint]


@dataclass(frozen=True)
class Offer:
    """A model that could be served: a name, other names it answers to, and its recipe."""

    name: str
    ref: ModelRef
    aliases: tuple[str, ...] = ()


def offers(runs: Sequence[Run]) -> list[Offer]:
    """Everything that these runs made and that can answer, the base first.

    One run: its stages by their names. Several: as run/stage, and by the stage's name where only one run has it. The
    run's own name is its last policy. Raises SettingError for two runs of one name.
    """
    names = [run.folder.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingError(
            f"Two of the runs are called {twice!r}, and their models could not be told apart; rename a folder."
        )
    policies = {
        run.folder.name: {title: record.models["policy"] for title, record in run.language_models.items()}
        for run in runs
    }
    stages = [stage for made in policies.values() for stage in made]
    found = [Offer(BASE_NAME, runs[0].start)]
    for run in runs:
        name = run.folder.name
        for stage, ref in policies[name].items():
            full, alone = f"{name}/{stage}", stages.count(stage) == 1 and stage != BASE_NAME
            last = (name,) if ref == run.model and name not in (BASE_NAME, *stages) else ()
            short, long = (stage, full) if len(runs) == 1 and alone else (full, stage)
            found.append(Offer(short, ref, (*((long,) if alone else ()), *last)))
    return found


def load_runs(bank: Bank, runs: Sequence[Run], note: Callable[[str], None]) -> None:
    """Serve what the runs offer; what cannot be is noted with its reason. Raises what is wrong with the base itself."""
    base, *others = offers(runs)
    bank.add(base.name, base.ref)
    for offer in others:
        try:
            bank.add(offer.name, offer.ref, offer.aliases)
        except StrategyError as reason:
            note(f"{offer.name} is left out: {reason}")


def find_adapter(path: str, allowed: Sequence[Path]) -> ModelRef:
    """The model of a run's folder, its last policy, or of one stage's folder or adapter, inside the allowed folders.

    Raises RunFolderError for every other path.
    """
    refusal = RunFolderError(
        "lora_path must be a run, or a stage or adapter of one, inside the folders that are served."
    )
    if "\0" in path or not Path(path).is_absolute():
        raise refusal
    place = Path(path).resolve()
    if not any(place.is_relative_to(folder) for folder in allowed):
        raise refusal
    home = next((one for one in (place, *place.parents) if (one / RUN_FILE).is_file()), None)
    if home is None or not any(home.is_relative_to(folder) for folder in allowed):
        raise refusal
    run = Run.load(home)
    if place == home:
        return run.model
    record = next((one for one in run if place in (one.folder, one.folder / "adapter")), None)
    if record is None or "policy" not in record.models:
        raise NoSuchStageError(f"{path} is no stage of a run that made a policy.")
    return record.models["policy"]
