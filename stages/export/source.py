"""Which model is exported: of a run or of one of its stages, on its base as it is found on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.errors import ExportError, ModelError, WrongBaseError

from ...pipeline import AdapterRef, ModelRef, Run, StageRecord
from ...pipeline.base_models import EMBEDDED, TINY_RANDOM, Base, find_base
from ...pipeline.cache import cache_folder
from ...pipeline.quantization import Format


@dataclass(frozen=True)
class Source:
    """A trained model, and what its run knows about it."""

    model: ModelRef  # with its base as it is found here
    base_name: str  # of the base as the run recorded it
    run: Run
    stage: StageRecord | None  # that made it; None of an untrained model
    prompts: tuple[str, ...]  # rendered; the run asked them

    @property
    def base(self) -> Base:
        return self.model.find()

    @property
    def name(self) -> str:
        """The run and the stage, for titles."""
        return f"{self.run.folder.name}-{self.stage.name}" if self.stage else self.run.folder.name

    def maker(self, adapter: AdapterRef) -> StageRecord | None:
        """The stage of this run that trained an adapter; None of one that came from another run."""
        return next((one for one in self.run if adapter.folder.is_relative_to(one.folder)), None)

    @property
    def lineage(self) -> list[StageRecord]:
        """The stages of this run whose training is in the model, in order."""
        found = [self.maker(adapter) for adapter in self.model.adapters]
        base = next((one for one in self.run if Path(self.model.base).is_relative_to(one.folder)), None)
        return [one for one in (base, *found) if one is not None]

    @property
    def quantised(self) -> Format | None:
        """What the frozen weights were quantised to while the last adapter was trained."""
        if not self.model.adapters:
            return None
        last = self.model.adapters[-1]
        maker = self.maker(last)
        formats: tuple[Format, ...] = ("nf4", "int8")
        for one in formats:
            if last.merge_onto == one or (maker and f"merge_drift_{one}" in maker.proofs):
                return one
        return None


def read_source(place: str, base: Path | None = None) -> Source:
    """RUN or RUN:STAGE, of a finished run or of the finished stages of one.

    base: where the base is now; None searches for it. Raises RunFolderError, NoSuchStageError, and what `located` does.
    """
    folder, stage = Path(place).expanduser(), ""
    if not folder.is_dir() and ":" in place:
        path, _, stage = place.rpartition(":")
        folder = Path(path).expanduser()
    run = Run.load(folder)
    return source_of(run, _made(run, stage), base)


def source_of(run: Run, model: ModelRef, base: Path | None = None) -> Source:
    """The model as a stage of the run made it, or as the run started from it."""
    made = [one for one in run if model.fingerprint in {ref.fingerprint for ref in one.models.values()}]
    # of stages that made nothing new, as a stage that was taken back, the first is the maker
    maker = made[0] if made else None
    samples = [sample["prompt"] for sample in maker.samples] if maker else []
    return Source(located(model, run.folder, base), model.base, run, maker, tuple(dict.fromkeys(samples)))


def _made(run: Run, stage: str) -> ModelRef:
    """Of the named stage; else the final policy, or what the run made where it made no policy."""
    if stage:
        models = run[stage].models
        if not models:
            raise ExportError(
                f"Stage {stage} of {run.folder} made no model; name one that did: "
                f"{', '.join(one.name for one in run if one.models) or 'there is none'}."
            )
        return next(iter(models.values()))
    made = [(role, model) for one in run if not one.rolled_back for role, model in one.models.items()]
    if not made:
        raise ExportError(f"{run.folder} has made no model yet, so there is nothing to export.")
    policies = [model for role, model in made if role == "policy"]
    return policies[-1] if policies else made[-1][1]


def located(model: ModelRef, run_folder: Path, given: Path | None) -> ModelRef:
    """The model on its base where that is now: as recorded, else by its fingerprint beside the run and in the caches.

    Raises WrongBaseError for a given base that is another one, ModelError when it is found nowhere.
    """
    if given is not None:
        found = find_base(given)
        if found.fingerprint != model.base_fingerprint:
            raise WrongBaseError(
                f"--base {given} has the fingerprint {found.fingerprint[:12]}, and the run was made on "
                f"{model.base_fingerprint[:12]} ({model.base}); give the folder of that one."
            )
        return replace(model, base=str(found.folder), revision=None)
    looked: list[str] = []
    for name, revision in _places(model, run_folder):
        looked.append(name)
        try:
            base = find_base(name, revision)
        except ModelError:
            continue
        if base.fingerprint == model.base_fingerprint:
            return model if name == model.base else replace(model, base=str(base.folder), revision=None)
    raise ModelError(
        f"The base {model.base} with the fingerprint {model.base_fingerprint[:12]} is not on this machine (looked at: "
        f"{', '.join(looked)}); say where it is with --base FOLDER."
    )


def _places(model: ModelRef, run_folder: Path) -> Iterator[tuple[str, str | None]]:
    """Where the base may be, nearest first. A fingerprint costs reading all weights, so only what has the base's name."""
    yield model.base, model.revision
    if model.base in (EMBEDDED, TINY_RANDOM):
        return
    name = Path(model.base).name
    for folder in (run_folder.parent / name, Path.cwd() / name):
        if folder.is_dir():
            yield str(folder), None
    for folder in sorted((cache_folder() / "models").glob("*")):
        if (folder / "config.json").is_file():
            yield str(folder), None
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).glob(f"models--*{name}/snapshots/*")):
        yield str(folder), None
