"""Speed and memory on one NVIDIA GPU, beside plain TRL and what the device can do: random weights of real shapes.

    python benchmarks/gpu.py                                       # all works
    python benchmarks/gpu.py --only "8B sft lora" --pairs 1
    python benchmarks/gpu.py --trl112 ~/trl112/bin/python --only "1.7B ppo"
    python benchmarks/gpu.py --in-small --results small.json       # tiny shapes, also on a CPU: the script itself is tried

Every side trains the same rows in bfloat16 in a process of its own, posttrain as it is and TRL with its defaults. Counted
are the real tokens of a step, the median step after the second, the peak of PyTorch's allocator, and the share of the model's
floating-point operations (products.py) in what the device computes meanwhile at its measured rate.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from products import model_flops

HERE = Path(__file__).parent
STEPS, RANK = 8, 16
# Qwen3's published shapes: hidden, intermediate, layers, heads, key-value heads, tied, vocabulary
SHAPES: Mapping[str, tuple[int, int, int, int, int, bool, int]] = {
    "0.6B": (1024, 3072, 28, 16, 8, True, 151_936),
    "1.7B": (2048, 6144, 28, 16, 8, True, 151_936),
    "8B": (4096, 12288, 36, 32, 8, False, 151_936),
    "tiny": (128, 256, 2, 4, 2, True, 49_152),
}
HEAD_SIZE = 128


@dataclass(frozen=True)
class Work:
    """One row of the table: rows of `length` tokens, `batch` a step."""

    size: str
    kind: str
    strategy: str
    batch: int
    length: int


WORKS: Mapping[str, Work] = {
    "0.6B sft full": Work("0.6B", "sft", "full", 8, 1024),
    "0.6B sft lora": Work("0.6B", "sft", "lora", 8, 1024),
    "1.7B sft full": Work("1.7B", "sft", "full", 8, 1024),
    "1.7B sft lora": Work("1.7B", "sft", "lora", 8, 1024),
    "1.7B dpo lora": Work("1.7B", "dpo", "lora", 4, 1024),
    "1.7B reward lora": Work("1.7B", "reward", "lora", 4, 1024),
    "1.7B ppo": Work("1.7B", "ppo", "lora", 16, 160),
    "8B sft full": Work("8B", "sft", "full", 2, 1024),
    "8B sft lora": Work("8B", "sft", "lora", 8, 1024),
    "8B sft qlora": Work("8B", "sft", "qlora", 8, 1024),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=WORKS)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--trl112", type=Path, help="the Python with TRL 1.12, for PPO")
    parser.add_argument("--in-small", action="store_true")
    parser.add_argument("--results", type=Path, default=HERE / "gpu.json")
    given = parser.parse_args()
    import torch

    if not (torch.cuda.is_available() or given.in_small):
        sys.exit("There is no GPU here; --in-small tries the script on a CPU.")
    result = json.loads(given.results.read_text()) if given.results.exists() else {}
    result |= {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, tiny shapes",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    for name in given.only or WORKS:
        work = WORKS[name]
        if given.in_small:
            work = Work("tiny", work.kind, work.strategy, 2, 96)
        with tempfile.TemporaryDirectory() as folder:
            base = random_base(work.size, Path(folder) / "model")
            measure = ppo if work.kind == "ppo" else trained
            result[name] = measure(work, base, Path(folder), given)
        print(name, json.dumps(result[name], indent=2), flush=True)
        given.results.write_text(json.dumps(result, indent=2) + "\n")


def random_base(size: str, folder: Path) -> Path:
    from memory import random_model
    from transformers import Qwen3Config

    hidden, intermediate, layers, heads, keys, tied, vocabulary = SHAPES[size]
    config = Qwen3Config(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=keys, head_dim=HEAD_SIZE, vocab_size=vocabulary, tie_word_embeddings=tied,
    )  # fmt: skip
    return random_model(config, folder)


def trained(work: Work, base: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Ours and plain TRL's in turn, and the device's rates before each."""
    job = job_of(work, base)
    found: dict[str, list[dict[str, Any]]] = {"posttrain": [], "trl": []}
    rates: list[dict[str, float]] = []
    for turn in range(given.pairs):
        for side, runs in found.items():
            rates.append(ceiling(given.in_small))
            own = folder / f"{side}{turn}"
            own.mkdir()
            (own / "job.json").write_text(json.dumps(job | {"side": side, "folder": str(own)}))
            command = [sys.executable, str(HERE / "peers_side.py"), str(own / "job.json"), str(time.time())]
            done = subprocess.run(command, capture_output=True, text=True, cwd=own)
            if done.returncode:
                sys.exit(f"{side}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
            runs.append(json.loads((own / "result.json").read_text()))
    products = statistics.median(rate["TFLOP/s"] for rate in rates)
    out: dict[str, Any] = {
        "GEMM in TFLOP/s": float(f"{products:.4g}"),  # a CPU without bfloat16 makes 0.002
        "copy in GB/s": round(statistics.median(rate["GB/s"] for rate in rates), 1),
    }
    for side, runs in found.items():
        step = statistics.median(run.get("step", run["loop"] / run["steps"]) for run in runs)
        done_TFLOP = flops(work, base, job["step_tokens"], job["step_labelled"]) / 1e12
        out[side] = {
            "step in s": round(step, 4),
            "tokens/s": round(job["step_tokens"] / step, 1),
            "of the measured GEMM": round(done_TFLOP / step / products, 4),
            "peak_GB": max(run["peak_GB"] for run in runs),
            "loss": runs[-1]["loss"],
            "step of each run": [run.get("step", run["loop"] / run["steps"]) for run in runs],
        }
    out["planned_GB"] = planned_GB(job, folder)
    out["posttrain / trl, tokens/s"] = round(out["posttrain"]["tokens/s"] / out["trl"]["tokens/s"], 3)
    return out


def job_of(work: Work, base: Path) -> dict[str, Any]:
    """What peers_side.py takes. Prompts are a quarter of the tokens, half of them in pairs, and a row in four is half as long."""
    from posttrain.pipeline.base_models import shared_tokenizer
    from posttrain.pipeline.pipeline import stage_seed

    draw, pairs = random.Random(0), work.kind != "sft"
    tokenizer = shared_tokenizer(base)

    def text(count: int) -> str:
        return " ".join(
            draw.choices(("river", "stone", "cloud", "house", "light"), k=count)
        )  # a token a word

    rows = []
    for number in range(STEPS * work.batch):
        length = work.length if number % 4 else work.length // 2
        asked = length // (2 if pairs else 4)
        answer = max(1, length - asked - 24)  # the rest is the template's
        row = {"question": f"{number} {text(asked)}"}
        rows.append(
            row | ({"chosen": text(answer), "rejected": text(answer)} if pairs else {"answer": text(answer)})
        )

    def length_of(row: Mapping[str, str], answer: str) -> int:
        said = {"system": "Answer.", "user": row["question"], "assistant": answer}
        turns = [{"role": role, "content": content} for role, content in said.items()]
        return len(tokenizer.apply_chat_template(turns)["input_ids"])

    answers = [(row, row[key]) for row in rows for key in ("answer", "chosen", "rejected") if key in row]
    tokens = sum(min(work.length, length_of(row, answer)) for row, answer in answers)
    labelled = sum(len(tokenizer(answer)["input_ids"]) + 1 for _, answer in answers)
    title = {"reward": "reward_model"}.get(work.kind, work.kind)
    return {
        "work": work.kind, "system": "Answer.", "settings": {}, "base": str(base), "rows": rows, "batch_size": work.batch,
        "steps": STEPS, "max_length": work.length, "learning_rate": 1e-5, "strategy": work.strategy, "r": RANK, "alpha": 32,
        "targets": "all-linear", "seed": stage_seed(0, title), "step_tokens": tokens / STEPS, "step_labelled": labelled / STEPS,
    }  # fmt: skip


def flops(work: Work, base: Path, tokens: float, labelled: float) -> float:
    """Floating-point operations of a step that the model itself asks for."""
    config, full = json.loads((base / "config.json").read_text()), work.strategy == "full"
    return model_flops(
        config, tokens, labelled, work.length, full=full, rank=0 if full else RANK, head=work.kind != "reward",
        forwards=2 if work.kind == "dpo" else 1,
    )  # fmt: skip


def ceiling(in_small: bool) -> dict[str, float]:
    """What the device does of a square product and of a copy, now."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 256 if in_small else 8192
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))

    def seconds(work: Any) -> float:
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        return statistics.median(times[1:])

    out = torch.empty_like(a)
    return {
        "TFLOP/s": 2 * size**3 / seconds(lambda: torch.mm(a, b)) / 1e12,
        "GB/s": 2 * out.nbytes / seconds(lambda: out.copy_(a)) / 1e9,
    }


def planned_GB(job: Mapping[str, Any], folder: Path) -> float:
    from peers_side import pipeline_of

    (plan,) = pipeline_of(dict(job) | {"folder": folder / "plan"}).plan(shown=False)
    return round(plan.memory_bytes / 1e9, 3)


def ppo(work: Work, base: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Answers a second of ours, with either critic, and of TRL 1.12's design where its Python is given."""
    import ppo as bench

    answer = 8 if given.in_small else 128
    out: dict[str, Any] = {}
    for side in bench.SIDES[: 3 if given.trl112 else 2]:
        theirs = side == "trl 1.12"
        runs = []
        for turn in range(given.pairs):
            own = folder / f"{side}{turn}"
            own.mkdir()
            job = bench.job_of(answer, str(own)) | {"base": str(base), "side": side}
            script = HERE / ("ppo_trl112.py" if theirs else "ppo.py")
            runs.append(bench.run(given.trl112 if theirs else Path(sys.executable), script, job))
        out[side] = bench.summary(runs)
    if given.trl112:
        for side in bench.SIDES[:2]:
            ratio = out["trl 1.12"]["seconds"] / out[side]["seconds"]
            out[side]["speed against trl 1.12"] = round(ratio, 2)
    return out


if __name__ == "__main__":
    main()
