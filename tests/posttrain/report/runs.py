"""Run folders written by hand: as large, as broken or as hostile as a test needs them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.pipeline.durable import write_json, write_sealed

DATA: dict[str, Any] = {
    "source": "chat.jsonl", "format": "messages", "why": "its rows have 'messages'", "rows_read": 240, "rows_kept": 220,
    "rows_held_out": 12, "rows_cut": 0, "rows_dropped": 8, "dropped_reasons": {"quarantined": 5, "too long": 3},
    "tokens": 20_000, "trained_tokens": 9_000, "stop_tokens_lost": 0, "lines": ["kept 220 of 240 rows"],
    "histogram": [[33, 64, 80], [65, 128, 140]], "held_out": None,
    "shown": [{"tokens": 6, "trained": 2, "parts": [["", [["user: Hi", False], ["Hello", True]]]]}],
}  # fmt: skip


class RunFolder:
    """A run folder on its way: `begin` a stage, `steps`, `finish` it, and `write` the run."""

    def __init__(self, folder: Path, stages: Sequence[str], model: str = "tiny-random") -> None:
        self.folder, self._stages, self._model = folder, list(stages), model
        self._entries: list[dict[str, str]] = []
        self._start = {"base": model, "base_fingerprint": "0123456789abcdef", "revision": None, "head": "causal_lm", "adapters": []}  # fmt: skip

    def begin(self, name: str, type_: str = "SFT", **more: Any) -> Path:
        stage = self.folder / "stages" / f"stage-{len(self._entries)}"
        stage.mkdir(parents=True)
        self._entries.append({"name": name, "folder": stage.relative_to(self.folder).as_posix()})
        line = {
            "event": "started", "time": "2026-01-01T00:00:00Z", "type": type_, "settings": [], "seed": 7,
            "plan": {"steps": 10, "memory_bytes": 2 * 10**9, "disk_bytes": 10**7}, "versions": {"torch": "2.13.0"},
            "machine": "a machine", "command": "python train.py",
        }  # fmt: skip
        _append(stage / "attempts.jsonl", line | more)
        return stage

    def finish(self, stage: Path, name: str, type_: str = "SFT", **more: Any) -> None:
        record = {
            "name": name, "type": type_, "key": "k", "metrics": {"loss_before": 3.0, "loss_after": 2.0}, "data": DATA,
            "proofs": {"parameters_moved": 14.0}, "samples": [], "settings": [], "seconds": 61.0,
            "models": {"policy": {**self._start, "adapters": [{"folder": f"run:{self._entries[-1]['folder']}/adapter", "digest": "fedcba9876543210", "base_fingerprint": "", "merge_onto": "weights"}]}},
            "measured": {"peak_memory_bytes": 10**9, "disk_bytes": 10**6},
        }  # fmt: skip
        write_sealed(stage / "stage.json", record | more)

    def write(self) -> Path:
        value = {
            "posttrain": "0.1.0", "pipeline": self._stages, "model": self._model, "seed": 0, "start": self._start,
            "stages": self._entries,
        }  # fmt: skip
        write_sealed(self.folder / "run.json", value)
        return self.folder


def write_steps(stage: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_proofs(stage: Path, proofs: Mapping[str, float]) -> None:
    write_json(stage / "proofs.json", proofs)


def write_alarm(stage: Path, step: int, text: str) -> None:
    _append(stage / "alarms.jsonl", {"step": step, "name": "kl", "text": text})


def break_off(stage: Path, error: str, text: str) -> None:
    _append(stage / "attempts.jsonl", {"event": "broken off", "time": "", "error": error, "text": text})


ONLINE = (
    "reward", "judge", "kl", "kl_per_token", "entropy", "clip_fraction", "ratio", "explained_variance", "value_loss", "length",
    "stopped", "reward_length_correlation", "repetition", "seconds_rollout", "seconds_scoring", "seconds_update",
)  # fmt: skip


def lines_of(steps: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """Waves of their own for each name; numbers with all their digits."""
    return [
        {"step": step} | {name: 2 + math.sin(step / (7 + i)) / (i + 1) for i, name in enumerate(names)}
        for step in range(1, steps + 1)
    ]


def rlhf(folder: Path, steps: int = 20, stages: int = 3) -> Path:
    """SFT ..., a reward model, and PPO with an alarm; the answers change in one word."""
    names = [f"sft{i}" for i in range(stages - 2)] + ["reward_model", "ppo"]
    run = RunFolder(folder, names)
    for place, name in enumerate(names):
        type_ = {"reward_model": "RewardModel", "ppo": "PPO"}.get(name, "SFT")
        stage = run.begin(name, type_)
        common = ["loss", "learning_rate", "grad_norm", "memory_bytes"]
        write_steps(
            stage,
            lines_of(steps, [*common, *(ONLINE if name == "ppo" else ("entropy", "mean_token_accuracy"))]),
        )
        write_proofs(stage, {"parameters_moved": 14.0, "read_back_difference": 0.0})
        samples = [{"prompt": "Say it.", "answer": f"The boat number {place} is green."}]
        if place == 0:
            samples[0]["before"] = "Boat boat boat."
        if name == "ppo":
            write_alarm(stage, 3, "the KL to the reference is 40.0 nats an answer: lower learning_rate")
        run.finish(stage, name, type_, samples=[] if name == "reward_model" else samples)
    return run.write()


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
