"""Experiment tracking: wandb, TensorBoard, or none. One run per stage, one group per pipeline; never a prompt."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from posttrain.errors import SettingError


class Tracker(Protocol):
    """Receives one stage's numbers."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, summary: Mapping[str, Any]) -> None: ...


class NoTracker:
    """Keeps nothing; `metrics.jsonl` has every number anyway."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


class WandbTracker:
    """A wandb run; offline unless an API key is at hand."""

    def __init__(self, group: str, stage: str, key: str, config: Mapping[str, Any], folder: Path) -> None:
        import wandb

        # Finds a key without asking for one and without the network; the user's own WANDB_MODE goes first.
        mode = os.environ.get("WANDB_MODE") or (
            "online" if wandb.login(prompt=False, verify=False) else "offline"
        )
        self._run = wandb.init(
            project="posttrain", group=group, name=stage, id=key[:16], resume="allow", config=dict(config),
            dir=str(folder), mode=mode,  # type: ignore[arg-type]
            # Its metadata holds the command line and the addresses of git's remotes, passwords and all.
            settings=wandb.Settings(silent=True, console="off", x_disable_meta=True, disable_git=True),
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, "step": step})

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class TensorBoardTracker:
    """Event files in the stage's folder, `tensorboard --logdir RUN` shows all stages."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        import json

        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(folder / "tensorboard"))
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name, value in summary.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"summary/{name}", value)
        self._writer.close()


TRACKERS = ("none", "wandb", "tensorboard")


def check_tracker(track: str) -> None:
    """Raises SettingError for an unknown tracker, or one whose package is missing."""
    if track not in TRACKERS:
        raise SettingError(f"track={track!r}: track must be one of {', '.join(map(repr, TRACKERS))}.")
    if track != "none" and importlib.util.find_spec(track) is None:
        raise SettingError(f"track={track!r} needs the package {track}; run: pip install {track}")


def start_tracker(
    track: str, group: str, stage: str, key: str, config: Mapping[str, Any], folder: Path
) -> Tracker:
    """The tracker of one stage."""
    if track == "wandb":
        return WandbTracker(group, stage, key, config, folder)
    if track == "tensorboard":
        return TensorBoardTracker(config, folder)
    return NoTracker()
