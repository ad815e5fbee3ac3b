"""The same CPT, SFT, DPO or reward model by posttrain, plain TRL, LLaMA-Factory and ms-swift, and what the machine could do.

    python benchmarks/peers.py --setup ~/peers                    # two virtual environments, about 10 minutes and 5 GB
    python benchmarks/peers.py --peers ~/peers                    # all works, A B A B; about 40 minutes on 2 cores
    python benchmarks/peers.py --peers ~/peers --work sft --pairs 1 --only posttrain --only llamafactory

Every side gets the same rows in the same chat template, the embedded 135M model in float32, LoRA r=8 on q_proj and v_proj,
AdamW at a fixed rate, one epoch in batches of 4 rows (2 pairs) and one thread. Each measurement is a process of its own:
"loop" is the trainer's `train()`, "first step" the time from the process's start to the end of the first optimizer step,
"peak" the process's largest resident memory. "limit" is how long the matrix products of the work take on this machine at the
model's own shapes (products.py), measured before each process, for the real tokens and the labelled ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "peers.json"
MAX_LENGTH, SYSTEM = 512, "You answer briefly."  # given, since a side's template may add one of its own
# work: (rows, rows a batch)
WORKS: Mapping[str, tuple[int, int]] = {"sft": (32, 4), "cpt": (32, 4), "dpo": (8, 2), "reward": (8, 2)}
# side: (whose Python, what is set for it)
SIDES: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "posttrain": (None, {}),
    "trl": (None, {}),
    "trl, packed": (None, {"packing": True}),
    "llamafactory": ("llamafactory", {}),
    "llamafactory, neat packing": ("llamafactory", {"packing": True}),
    "swift": ("swift", {}),
}
TITLES = {"sft": "sft", "cpt": "cpt", "dpo": "dpo", "reward": "reward_model"}
CPT_SIDES = (
    "posttrain",
    "trl, packed",
    "llamafactory",
)  # the latter joins documents, too, if not told otherwise
_CONSTRAINTS = "torch==2.13.0\ntorchvision==0.28.0\n"
_PEERS = {"llamafactory": ("llamafactory==0.9.5",), "swift": ("ms-swift==4.6.0",)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", type=Path, help="make the peers' virtual environments in this folder")
    parser.add_argument("--peers", type=Path, help="the folder that --setup made")
    parser.add_argument("--work", action="append", choices=WORKS)
    parser.add_argument("--only", action="append", choices=SIDES)
    parser.add_argument("--pairs", type=int, default=2)
    given = parser.parse_args()
    if given.setup:
        return set_up(given.setup)
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    for work in given.work or WORKS:
        sides = [
            name for name, (peer, more) in SIDES.items()
            if (given.only is None or name in given.only) and (peer is None or given.peers)
            and (work == "sft" or name in CPT_SIDES if work in ("sft", "cpt") else not more)
        ]  # fmt: skip
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(given.pairs):
            for side in sides:
                found[side].append(measure(work, side, given.peers))
                print(work, side, found[side][-1], flush=True)
        result[work] = summary(found)
        print(json.dumps(result[work], indent=2), flush=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def set_up(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(_CONSTRAINTS)
    for name, packages in _PEERS.items():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        pip = [str(folder / name / "bin" / "python"), "-m", "pip", "-q"]
        subprocess.run([*pip, "install", "-c", str(constraints), "torch==2.13.0"], check=True)
        subprocess.run([*pip, "install", "-c", str(constraints), *packages], check=True)
        # PyPI's torchvision and torchaudio want CUDA; LLaMA-Factory imports the latter even where there is no sound.
        subprocess.run([*pip, "uninstall", "-y", "torchvision", "torchaudio"], check=True)
        (library,) = (folder / name / "lib").glob("python*/site-packages")
        (library / "torchaudio").mkdir(exist_ok=True)
        (library / "torchaudio" / "__init__.py").write_text("")


def rows_of(work: str) -> list[dict[str, Any]]:
    """Rows as long and as uneven as instruction data is, of the packaged texts: the same ones each time."""
    from posttrain.data_formats import sample

    words = " ".join(
        json.loads(line)["text"] for line in sample("text").read_text("utf-8").splitlines()
    ).split()
    draw = random.Random(0)

    def text(longest: int) -> str:
        length = min(longest, max(8, int(draw.lognormvariate(4.4, 0.8))))
        start = draw.randrange(len(words) - longest)
        return " ".join(words[start : start + length])

    rows = []
    for _ in range(WORKS[work][0]):
        if work == "cpt":
            rows.append({"text": text(300)})
        elif work == "sft":
            rows.append({"question": text(60), "answer": text(300)})
        else:  # prompts of half the tokens and more
            rows.append({"question": text(220), "chosen": text(110), "rejected": text(110)})
    return rows


def job_of(work: str, side: str, folder: Path) -> dict[str, Any]:
    from posttrain.pipeline.base_models import find_base, shared_tokenizer
    from posttrain.pipeline.pipeline import stage_seed

    base = find_base("embedded").folder
    rows, batch = rows_of(work), WORKS[work][1]
    tokenizer = shared_tokenizer(base)

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat(question: str, answer: str) -> int:
        said = {"system": SYSTEM, "user": question, "assistant": answer}
        turns = [{"role": role, "content": text} for role, text in said.items()]
        return len(tokenizer.apply_chat_template(turns)["input_ids"])

    learned = ("text", "answer", "chosen", "rejected")
    texts = [(row.get("question"), row[key]) for row in rows for key in learned if key in row]
    labelled = sum(length(answer) + 1 for _, answer in texts)
    tokens = sum(length(answer) + 1 if asked is None else chat(asked, answer) for asked, answer in texts)
    return {
        "work": work, "side": side, "system": SYSTEM, "settings": dict(SIDES[side][1]), "base": str(base), "rows": rows, "batch_size": batch,
        "steps": -(-len(rows) // batch), "max_length": MAX_LENGTH, "learning_rate": 1e-4, "strategy": "lora", "r": 8, "alpha": 16,
        "targets": ["q_proj", "v_proj"], "folder": str(folder), "tokens": tokens, "labelled": labelled,
        "seed": stage_seed(0, TITLES[work]),  # of the order of the rows, which all sides draw in the same way
        # products of a token with all weights: forward and backward, and the reference's forward pass
        "passes": 3 if work == "dpo" else 2,
    }  # fmt: skip


def measure(work: str, side: str, peers: Path | None) -> dict[str, Any]:
    peer = SIDES[side][0]
    python = sys.executable if peer is None or peers is None else str(peers / peer / "bin" / "python")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = job_of(work, side, folder)
        (folder / "job.json").write_text(json.dumps(job))
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "USE_HF": "1",
        }  # fmt: skip
        limit = limit_of(folder / "job.json")
        begun = time.time()
        command = [python, str(HERE / "peers_side.py"), str(folder / "job.json"), str(begun)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        whole = time.time() - begun
        if done.returncode:
            sys.exit(f"{work}, {side}:\n{done.stdout[-3000:]}{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    joins_rows = job["settings"] or (work == "cpt" and side != "posttrain")
    if found["steps"] != job["steps"] and not joins_rows:
        sys.exit(f"{work}, {side}: {found['steps']} steps were made, {job['steps']} were asked for.")
    tokens = job["tokens"]
    if (
        work == "cpt" and side == "llamafactory"
    ):  # whole blocks alone; it leaves out what is behind the last one
        tokens = min(tokens, found["steps"] * job["batch_size"] * MAX_LENGTH)
    return found | {
        "whole": round(whole, 1),
        "limit": round(limit, 1),
        "tokens": tokens,
        "real_tokens_per_second": round(tokens / found["loop"], 1),
    }


def limit_of(job: Path) -> float:
    """Seconds that the products of the work take on this machine, measured now, on one thread."""
    command = [sys.executable, str(HERE / "products.py"), str(job)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians of each side, the runs themselves, and what ours is to the best of the others."""
    out: dict[str, Any] = {}
    for side, runs in found.items():
        numbers = [name for name, value in runs[0].items() if isinstance(value, int | float)]
        medians = {name: round(statistics.median(run[name] for run in runs), 4) for name in numbers}
        out[side] = medians | {"loop of each run": [run["loop"] for run in runs]}
        out[side]["loop / limit"] = round(statistics.median(run["loop"] / run["limit"] for run in runs), 3)
    others = [side for side in found if side != "posttrain"]
    if "posttrain" in found and others:
        for name in ("loop", "whole", "first_step", "peak_GB"):
            best = min(others, key=lambda side: out[side][name])
            ratio = round(out["posttrain"][name] / out[best][name], 3)
            out[f"posttrain's {name} / the best other's"] = {"ratio": ratio, "best": best}
    return out


if __name__ == "__main__":
    main()
