"""How long it takes until something useful happens: import, help, a plan, and a run with nothing left to do.

    python benchmarks/startup.py                     # the rerun is timed when runs/quickstart is finished (make demo)

Whole processes, one warm-up, then seven runs each; medians and the range.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 7
COMMANDS = {
    "python -c 'import posttrain'": ["-c", "import posttrain"],
    "posttrain --help": ["-m", "posttrain", "--help"],
    "posttrain plan, four stages": ["-m", "posttrain", "plan", "recipes/quickstart.yaml"],
    "four finished stages, run again": ["recipes/quickstart.py"],
}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - begun


def main() -> None:
    result: dict[str, object] = {"date": date.today().isoformat(), "cores": os.cpu_count()}
    for name, command in COMMANDS.items():
        if command[0].startswith("recipes") and not (ROOT / "runs" / "quickstart" / "run.json").exists():
            continue
        times = [seconds(command) for _ in range(RUNS + 1)][1:]
        result[name] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
        print(f"{name}: {statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})", flush=True)
    Path(__file__).with_name("startup.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
