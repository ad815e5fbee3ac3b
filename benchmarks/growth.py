"""Whether cost grows as the work does: ten times the rows, and rows four and sixteen times as long.

    python benchmarks/growth.py                # 20 to 40 minutes on 2 cores; writes growth.json and a plot

SFT with LoRA r=8 of the embedded 135M model in float32, batches of 4 rows of one length, one thread, each run in a process of
its own. Seconds are the trainer's `train()`, operations those of the model (products.py), the peak is the process's.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from products import model_flops

HERE = Path(__file__).parent
RESULTS, PLOT = HERE / "growth.json", HERE.parent / "docs" / "images" / "growth.png"
BATCH = 4
RUNS = ((32, 64), (320, 64), (32, 256), (32, 1024))  # (rows, tokens of each)
TURNS = 2


def main() -> None:
    runs: dict[str, list[dict[str, float]]] = {f"{rows} x {length}": [] for rows, length in RUNS}
    for _ in range(TURNS):
        for rows, length in RUNS:
            runs[f"{rows} x {length}"].append(measured(rows, length))
            print(f"{rows} x {length}", runs[f"{rows} x {length}"][-1], flush=True)
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "runs": runs,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    plot(runs)


def measured(rows: int, length: int) -> dict[str, float]:
    from posttrain.pipeline.base_models import find_base

    draw, base = random.Random(0), find_base("embedded").folder
    words = [" ".join(draw.choices(("river", "stone", "cloud", "house"), k=length)) for _ in range(rows)]
    with tempfile.TemporaryDirectory() as name:
        job = {
            "side": "posttrain", "work": "sft", "strategy": "lora", "r": 8, "alpha": 16, "targets": "all-linear",
            "system": "Answer.", "rows": [{"question": f"{i}", "answer": text} for i, text in enumerate(words)],
            "base": str(base), "batch_size": BATCH, "steps": rows // BATCH, "max_length": length, "learning_rate": 1e-4,
            "folder": name,
        }  # fmt: skip
        path = Path(name) / "job.json"
        path.write_text(json.dumps(job))
        command = [sys.executable, str(HERE / "peers_side.py"), str(path), str(time.time())]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=name)
        if done.returncode:
            sys.exit(f"{rows} x {length}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        found = json.loads((Path(name) / "result.json").read_text())
        (table,) = [
            json.loads(file.read_text())["data"] for file in Path(name).glob("run/stages/*/stage.json")
        ]
    config = json.loads((base / "config.json").read_text())
    operations = model_flops(config, table["tokens"], table["trained_tokens"], length, full=False, rank=8)
    return {"seconds": found["loop"], "TFLOP": round(operations / 1e12, 3), "peak_GB": found["peak_GB"]}


def plot(runs: dict[str, list[dict[str, float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for name, found in runs.items():
        rows, length = name.split(" x ")
        style: dict[str, Any] = {
            "marker": "o" if rows == "32" else "s",
            "linestyle": "",
            "label": f"{rows} rows of {length}",
        }
        time_axis.plot([one["TFLOP"] for one in found], [one["seconds"] for one in found], **style)
        memory_axis.plot([int(length)] * len(found), [one["peak_GB"] for one in found], **style)
    first = next(iter(runs.values()))[0]
    work = [first["TFLOP"], max(one["TFLOP"] for found in runs.values() for one in found)]
    rate = first["seconds"] / first["TFLOP"]
    time_axis.plot(
        work, [rate * each for each in work], color="0.7", zorder=0, label="in proportion to the first"
    )
    time_axis.set(xscale="log", yscale="log", xlabel="TFLOP of the work", ylabel="seconds of training")
    memory_axis.set(
        xscale="log", xlabel="tokens a row, four rows a batch", ylabel="peak memory, GB", ylim=(0, None)
    )
    for axis, ticks in (
        (time_axis.xaxis, (1, 2, 5, 10, 20)), (time_axis.yaxis, (20, 50, 100, 200, 400)), (memory_axis.xaxis, (64, 256, 1024)),
    ):  # fmt: skip
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    time_axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=120)


if __name__ == "__main__":
    main()
