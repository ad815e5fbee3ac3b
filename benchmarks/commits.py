"""What it costs that nothing is lost: the seconds in which a run hashes, syncs and renames, of all its seconds.

    python benchmarks/commits.py                   # about 15 minutes on 2 cores, on the disk of --folder
    python benchmarks/commits.py --only sft --steps 20

The embedded model, LoRA r=16 on the packaged rows, checkpoints at the default cadence (ten a stage); each stage in a
process of its own. Counted is all that `pipeline/durable.py` does between writing a file and having it last: sha256 of
every file, fsync of files and folders, manifests, renames; also of the lines that a checkpoint must not outlive. Not
counted is what a plain trainer would write, too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("commits.json")
STAGES = ("cpt", "sft", "reward_model", "dpo", "ppo")
_BATCH = {"cpt": 4, "sft": 8, "reward_model": 4, "dpo": 4, "ppo": 8}


class Clock:
    """Seconds inside some functions; one that is called by another of them is counted once."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._depth = 0.0, 0, 0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            begun, self._depth = time.monotonic(), self._depth + 1
            try:
                return function(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.monotonic() - begun
                    self.calls += 1

        return timed


def one_stage(name: str, steps: int, folder: Path) -> dict[str, float]:
    from posttrain import CPT, DPO, PPO, SFT, LoRA, Pipeline, RewardModel
    from posttrain.pipeline import durable

    clock = Clock()
    # What durable.py does itself; within commit_folder the artifact is written, which a plain trainer does too.
    for place in ("adopt_folder", "write_bytes", "sync_file"):
        plain, timed = getattr(durable, place), clock.on(getattr(durable, place))
        for module in list(sys.modules.values()):  # those that are imported later take it from durable
            if vars(module).get(place) is plain:
                setattr(module, place, timed)
    kinds = {"cpt": CPT, "sft": SFT, "reward_model": RewardModel, "dpo": DPO, "ppo": PPO}
    more = {"reward": _length, "max_new_tokens": 24} if name == "ppo" else {}
    stage = kinds[name](LoRA(r=16), max_steps=steps, batch_size=_BATCH[name], **more)
    begun = time.monotonic()
    Pipeline([stage], run_dir=folder / "run").run()
    seconds = time.monotonic() - begun
    return {
        "seconds": round(seconds, 2), "seconds of commits": round(clock.seconds, 3), "commits": clock.calls,
        "share": round(clock.seconds / seconds, 5),
    }  # fmt: skip


def _length(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    return [len(text) / 100 for text in completions]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", choices=STAGES)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print("FOUND " + json.dumps(one_stage(given.only, given.steps, given.folder)))
        return
    found = {}
    for name in [given.only] if given.only else STAGES:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            command = [sys.executable, __file__, "--inside", "--only", name, "--steps", str(given.steps)]
            done = subprocess.run(
                [*command, "--folder", folder], check=True, stdout=subprocess.PIPE, text=True
            )
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        found[name] = json.loads(line.removeprefix("FOUND "))
        print(name, found[name], flush=True)
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "steps": given.steps,
        "stages": found,
        "largest share": max(one["share"] for one in found.values()),
    }
    if not given.only:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
