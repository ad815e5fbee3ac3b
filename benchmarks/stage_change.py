"""What a finished stage leaves in the memory of its process: the second stage of a chain, and the same one in a fresh process.

    python benchmarks/stage_change.py          # about 5 minutes on 2 cores

SFT and DPO on the embedded 135M model. Measured is the resident memory of the process when DPO has loaded its model and is
about to train. The fresh process finds SFT finished in the run folder, and begins with DPO.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "stage_change.json"
STRATEGIES = ("LoRA", "Full")


def main() -> None:
    if len(sys.argv) > 1:
        return chain(sys.argv[1], Path(sys.argv[2]))
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    for strategy in STRATEGIES:
        with tempfile.TemporaryDirectory() as name:
            run = Path(name) / "run"
            after = in_a_process(strategy, run)
            for stage in (run / "stages").glob("dpo-*"):
                shutil.rmtree(stage)
            fresh = in_a_process(strategy, run)
        result[strategy] = {
            "after SFT, GB": after, "fresh process, GB": fresh, "ratio": round(after / fresh, 3)
        }  # fmt: skip
        print(strategy, result[strategy], flush=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def in_a_process(strategy: str, run: Path) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, strategy, str(run)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    return float(json.loads((run.parent / "resident.json").read_text()))


def chain(strategy: str, run: Path) -> None:
    import posttrain
    from posttrain import DPO, SFT, Pipeline
    from posttrain.stages.trl_session import TrlSession

    fit, resident = TrlSession.fit, list[float]()

    def watched(self: Any, checkpoint: Any) -> None:
        (line,) = [
            each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmRSS")
        ]
        resident.append(round(int(line.split()[1]) * 1024 / 1e9, 3))
        fit(self, checkpoint)

    TrlSession.fit = watched  # type: ignore[method-assign]
    chosen = getattr(posttrain, strategy)()
    Pipeline([SFT(chosen, max_steps=6), DPO(chosen, max_steps=2)], run_dir=run).run()
    (run.parent / "resident.json").write_text(json.dumps(resident[-1]))


if __name__ == "__main__":
    main()
