"""Much of everything: data rows, metric lines, stages in one folder, requests. Memory stays bounded, nothing is lost.

    python benchmarks/load.py                                  # about 10 minutes on 2 cores
    python benchmarks/load.py --scale 0.01 --results small.json
    python benchmarks/load.py --only requests
    python benchmarks/data_prep.py --stream 5                  # a file of 5 GB has a benchmark of its own

Each part runs in a process of its own on the tiny random model, and ends with an error where something was lost: a row
that is neither kept nor counted, a metric line, a stage, a request whose answer is not the one that a lone client gets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from posttrain import Pipeline, Stage, StageContext, StageResult

RESULTS = Path(__file__).with_name("load.json")
Found = dict[str, Any]


def memory_bytes(which: str, process: int | str = "self") -> int:
    """A process's memory: VmRSS is now, VmHWM the most so far (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.monotonic()
    found = work()
    return round(time.monotonic() - begun, 2), found


def rows(count: int, folder: Path) -> Found:
    """Short dialogues from a JSONL file to token tables; one row of a thousand is bad and quarantined."""
    from posttrain.data_formats import Data
    from posttrain.pipeline.base_models import find_base, shared_tokenizer
    from posttrain.stages.token_tables import Request, load_tables

    path, draw, bad = folder / "rows.jsonl", random.Random(0), 0
    with path.open("w") as file:
        for number in range(count):
            said = " ".join(draw.choices(ascii_lowercase, k=12))
            turns = [{"role": "user", "content": f"{number}: {said}"}, {"role": "assistant", "content": said}]
            wrong = number % 1000 == 999
            bad += wrong
            file.write(json.dumps({"messages": [] if wrong else turns}) + "\n")
    base = find_base("tiny-random")
    tokenizer = shared_tokenizer(base.folder)
    request = Request(Data(path, on_bad_rows="quarantine"), None, "conversation", 512, "drop")
    before = memory_bytes("VmRSS")
    os.environ["POSTTRAIN_CACHE"] = str(folder / "cache")
    seconds, tables = timed(lambda: load_tables(request, lambda: tokenizer, base.tokenizer_fingerprint))
    held = len(tables.held_out) if tables.held_out is not None else 0
    assert tables.rows_read == count and len(tables.train) + held == count - bad, (
        tables.rows_read,
        len(tables.train),
        held,
    )
    return {"rows": count, "bad_rows": bad, "file_MB": round(path.stat().st_size / 1e6), "seconds": seconds,
            "memory_MB_above_start": round((memory_bytes("VmHWM") - before) / 1e6)}  # fmt: skip


@dataclass(frozen=True)
class Logs(Stage):
    """A stage that trains nothing and logs so many steps."""

    steps: int = 1

    makes = None
    needs = ("policy",)

    def run(self, context: StageContext) -> StageResult:
        context.events.begin_steps(0, self.steps)
        for step in range(1, self.steps + 1):
            context.events.step(
                step, {"loss": 1 + 1 / step, "learning_rate": 1e-5, "grad_norm": float(step % 7)}
            )
        return StageResult({}, metrics={"steps": float(self.steps)})


def lines(count: int, folder: Path) -> Found:
    """One stage with so many steps, its report written while it goes, and once more behind it."""
    from posttrain.report import read_report, write_report

    pipeline = Pipeline([Logs(steps=count)], model="tiny-random", run_dir=folder / "run")
    seconds, run = timed(pipeline.run)
    assert [line["step"] for line in run["logs"].history] == list(range(1, count + 1))
    writing, page = timed(lambda: write_report(folder / "run"))
    assert page.stat().st_size < 2_000_000
    assert all(curve["of"] == count for curve in read_report(folder / "run")["curves"])
    return {"lines": count, "seconds": seconds, "report_seconds": writing, "report_kB": page.stat().st_size // 1000,
            "memory_MB": memory_bytes("VmHWM") // 10**6}  # fmt: skip


def stages(count: int, folder: Path) -> Found:
    """A run of so many stages: run, run again with all of them finished, listed, shown, and reported by the commands."""
    names = [Logs(name=f"s{number}") for number in range(count)]
    pipeline = Pipeline(names, model="tiny-random", run_dir=folder / "run")
    first, run = timed(pipeline.run)
    again, _ = timed(Pipeline(names, model="tiny-random", run_dir=folder / "run").run)
    assert len(run.stages) == count
    found: Found = {"stages": count, "seconds": first, "seconds_finished": again}
    for words in (["runs", str(folder)], ["show", str(folder / "run")], ["report", str(folder / "run")]):
        found[f"{words[0]}_seconds"], said = timed(lambda words=words: command(*words))  # type: ignore[misc]
        assert "s0" in said or words[0] != "show", said[:300]
    return found


def command(*words: str) -> str:
    asked = [sys.executable, "-m", "posttrain", *words]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout


def requests(count: int, folder: Path) -> Found:
    """`posttrain serve`: so many requests one behind the other, then 64 clients that ask ten each."""
    from posttrain import SFT, LoRA

    turns = [
        [{"role": "user", "content": word}, {"role": "assistant", "content": f"{word}!"}]
        for word in "abcdefgh"
    ]
    stage = SFT(
        LoRA(r=4), data=[{"messages": each} for each in turns], max_steps=2, batch_size=2, learning_rate=1e-2
    )
    Pipeline([stage], model="tiny-random", run_dir=folder / "run").run()
    key = "a-key-for-this-machine-alone"
    asked = [sys.executable, "-m", "posttrain", "serve", str(folder / "run"), "--port", "0"]
    server = subprocess.Popen(
        asked, stdout=subprocess.PIPE, text=True, env=os.environ | {"POSTTRAIN_API_KEY": key}
    )
    try:
        assert server.stdout is not None
        address = next(line.split()[-1] for line in server.stdout if line.startswith("Listening"))
        return ask_often(address, key, server.pid, count)
    finally:
        server.terminate()
        server.wait()


def ask_often(address: str, key: str, process: int, count: int) -> Found:
    import httpx

    headers = {"authorization": f"Bearer {key}"}
    questions = [
        (model, text) for model in ("base", "sft") for text in ("Hi", "Where is it?", "a b c d e f g")
    ]

    def ask(client: httpx.Client, number: int) -> str:
        model, text = questions[number % len(questions)]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            "temperature": 0,
        }
        answer = client.post(f"{address}/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def opened() -> httpx.Client:
        return httpx.Client(headers=headers, timeout=600, trust_env=False, verify=False)

    def many(client_number: int) -> int:
        with opened() as client:
            return sum(
                ask(client, client_number + i) == right[(client_number + i) % len(right)] for i in range(10)
            )

    with opened() as client:
        right = [ask(client, number) for number in range(len(questions))]
        before = memory_bytes("VmRSS", process)
        one, same = timed(
            lambda: sum(ask(client, number) == right[number % len(right)] for number in range(count))
        )
    assert same == count, f"{count - same} of {count} answers were others"
    after_one = memory_bytes("VmRSS", process)
    with ThreadPoolExecutor(64) as pool:
        at_once, same = timed(lambda: sum(pool.map(many, range(64))))
    assert same == 640, f"{640 - same} of 640 answers were others"
    return {"requests": count, "seconds": one, "milliseconds_each": round(1000 * one / count, 1), "at_once": 640, "at_once_seconds": at_once,
            "memory_MB": before // 10**6, "grown_MB": round((after_one - before) / 1e6), "grown_MB_at_once": round((memory_bytes("VmRSS", process) - before) / 1e6)}  # fmt: skip


PARTS: dict[str, tuple[Callable[[int, Path], Found], int]] = {
    "rows": (rows, 2_000_000),
    "lines": (lines, 100_000),
    "stages": (stages, 500),
    "requests": (requests, 1_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--scale", type=float, default=1.0, help="of every count")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        work, count = PARTS[given.part]
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(work(max(8, round(count * given.scale)), Path(folder))))
        return
    kept = json.loads(given.results.read_text()) if given.results.exists() else {}
    for part in [given.only] if given.only else PARTS:
        asked = [sys.executable, __file__, "--part", part, "--scale", str(given.scale)]
        done = subprocess.run(asked, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{part}: something was lost, or it could not be done; see above.")
        kept |= {
            "date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "transformers")}, part: json.loads(done.stdout.splitlines()[-1]),
        }  # fmt: skip
        given.results.write_text(json.dumps(kept, indent=2) + "\n")
        print(part, json.dumps(kept[part]), flush=True)


if __name__ == "__main__":
    main()
