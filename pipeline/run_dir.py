"""Whether a folder may be the run folder of a pipeline: a new or empty one, or one that the same pipeline made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.errors import CorruptArtifactError, OtherPipelineError, RunFolderError

from .durable import read_sealed
from .launch import LAUNCH_FILE
from .run import OUTPUT_FILE, REPORT_FILE, RUN_FILE
from .watchdog import ALIVE

# What may lie in it before its first stage is finished.
_KNOWN = (".lock", "stages", LAUNCH_FILE, REPORT_FILE, OUTPUT_FILE, ALIVE)


def check_run_dir(folder: Path, titles: Sequence[str], model: str) -> None:
    """titles: of the stages. model: how the pipeline names the one it starts from.

    Raises RunFolderError for what is no run folder, OtherPipelineError for that of another pipeline, CorruptArtifactError
    for a damaged one. A pipeline that was made longer or shorter is the same one.
    """
    if not folder.is_dir():
        raise RunFolderError(f"run_dir {folder} is a file; give a folder.")
    if not (folder / RUN_FILE).exists():
        names = sorted(path.name for path in folder.iterdir())
        foreign = [name for name in names if name not in _KNOWN and not name.endswith(".tmp")]
        if foreign:
            raise RunFolderError(
                f"run_dir {folder} is no run folder and not empty (it has {foreign[0]}); choose another."
            )
        return
    try:
        kept = read_sealed(folder / RUN_FILE)
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{error} Delete it to rebuild it from the finished stages.") from error
    theirs = [str(name) for name in kept["pipeline"]]
    same = _is_subsequence(titles, theirs) or _is_subsequence(theirs, titles)
    if not same or kept["model"] != model:
        raise OtherPipelineError(
            f"{folder} holds another pipeline ({' -> '.join(theirs)} on {kept['model']}); this one is "
            f"{' -> '.join(titles)} on {model}. Choose another run_dir."
        )


def _is_subsequence(short: Sequence[str], long: Sequence[str]) -> bool:
    rest = iter(long)
    return all(name in rest for name in short)
