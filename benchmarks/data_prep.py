"""Preparing chat rows for training: ours beside TRL's SFTTrainer and LLaMA-Factory on the same file, each in a process of its own.

    python benchmarks/data_prep.py                      # 20,000 rows in pairs, then 200,000 rows: about 15 minutes
    python benchmarks/data_prep.py --rows 20000 --pairs 1 --whole 0
    python benchmarks/data_prep.py --peers ~/peers      # with LLaMA-Factory, of the environments that peers.py --setup made
    python benchmarks/data_prep.py --stream 5           # a JSONL of 5 GB through our reader, encoder and disk

Rows are dialogues of two to four turns, all different, made from the packaged texts; the tokenizer and template are the
embedded model's. Ours reads, checks every row, renders, proves what is trained, tokenises and writes the tables; TRL's
side is `load_dataset("json")` and what SFTTrainer does with the rows when it is built, without assistant-only loss;
LLaMA-Factory's is its `get_dataset`, in one process.
Seconds are of that work alone, peak memory is of the process above what its imports took, and of the processes that
help it all that they hold.
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
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any

RESULTS = Path(__file__).with_name("data_prep.json")
PEERS = ("llamafactory",)


def write_rows(path: Path, count: int = 0, size: int = 0) -> None:
    """`count` rows, or as many as make `size` bytes."""
    from posttrain.data_formats import sample

    texts = [json.loads(line)["text"] for line in sample("text").read_text().splitlines()]
    sentences = [part.strip() + "." for text in texts for part in text.split(".") if len(part) > 20]
    draw = random.Random(0)
    written = number = 0
    with path.open("w") as file:
        while number < count or written < size:
            turns = []
            for turn in range(draw.choice((2, 2, 4))):
                said = " ".join(draw.choices(sentences, k=draw.randint(1, 5)))
                turns.append({"role": ("user", "assistant")[turn % 2], "content": f"{said} ({number})"})
            written += file.write(json.dumps({"messages": turns}) + "\n")
            number += 1


def memory_bytes(which: str, process: str = "self") -> int:
    """A process's memory: VmRSS is now, VmHWM the most since the mark was set back (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`work` after its imports: seconds, and the peak above what was in memory before."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark of the peak back
    before = memory_bytes("VmRSS")
    children, done = dict[str, int](), Event()
    watch = Thread(target=watch_children, args=(children, done))
    watch.start()
    begun = time.monotonic()
    result = work()
    seconds = time.monotonic() - begun
    done.set()
    watch.join()
    return {
        "seconds": round(seconds, 2),
        "peak_GB": round((memory_bytes("VmHWM") - before + sum(children.values())) / 1e9, 3),
        "children_GB": [round(peak / 1e9, 3) for peak in children.values()],
        **result,
    }


def watch_children(peaks: dict[str, int], done: Event) -> None:
    """The peak of each child of this process, by its number, looked at until `done`."""
    own = Path("/proc/self/cmdline").read_bytes()
    while not done.wait(0.05):
        for child in {
            pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()
        }:
            try:
                if Path(f"/proc/{child}/cmdline").read_bytes() not in (
                    own,
                    b"",
                ):  # else it is still this program
                    peaks[child] = memory_bytes("VmHWM", child)
            except (OSError, StopIteration):  # it has just ended
                continue


def ours(path: Path, _: Path) -> dict[str, Any]:
    from posttrain.pipeline.base_models import find_base, shared_tokenizer
    from posttrain.stages.token_tables import Request, load_tables

    base = find_base("embedded")
    tokenizer = shared_tokenizer(base.folder)
    request = Request(path, None, "conversation", 4096, "drop")

    def first() -> dict[str, Any]:
        tables = load_tables(request, lambda: tokenizer, base.tokenizer_fingerprint)
        return {"rows": tables.rows_read, "tokens": tables.report.tokens, "by": tables.report.notes[-1:]}

    made = measured(first)
    return {**made, "second": measured(first)["seconds"]}


def trl(path: Path, base: Path) -> dict[str, Any]:
    import datasets
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).to(torch.float32)

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
            config = SFTConfig(output_dir=folder, max_length=4096, bf16=False, use_cpu=True, report_to="none")
            trainer = SFTTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
            made = trainer.train_dataset
            return {"rows": len(made), "tokens": sum(map(len, made["input_ids"]))}

    return measured(work)


def llamafactory(path: Path, base: Path) -> dict[str, Any]:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    listed = {
        "file_name": path.name, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": roles,
    }  # fmt: skip

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / path.name).symlink_to(path)
            (folder / "dataset_info.json").write_text(json.dumps({"rows": listed}))
            model, data, training, *_ = get_train_args({
                "stage": "sft", "do_train": True, "model_name_or_path": str(base), "dataset": "rows", "dataset_dir": name,
                "template": "chatml", "cutoff_len": 4096, "output_dir": name, "use_cpu": True, "bf16": False,
                "report_to": "none", "finetuning_type": "lora",
            })  # fmt: skip
            read = load_tokenizer(model)
            template = get_template_and_fix_tokenizer(read["tokenizer"], data)
            made = get_dataset(template, model, data, training, stage="sft", **read)["train_dataset"]
            return {"rows": len(made), "tokens": sum(map(len, made["input_ids"]))}

    return measured(work)


def in_process(side: str, path: Path, peers: Path | None) -> dict[str, Any]:
    from posttrain.pipeline.base_models import find_base

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HOME": folder, "POSTTRAIN_CACHE": folder}  # nobody finds old tables
        environment["HF_DATASETS_CACHE"] = folder
        python = str(peers / side / "bin" / "python") if peers and side in PEERS else sys.executable
        command = [
            python,
            __file__,
            "--side",
            side,
            "--file",
            str(path),
            "--base",
            str(find_base("embedded").folder),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def compared(path: Path, sides: Sequence[str], pairs: int, peers: Path | None) -> dict[str, Any]:
    """The runs in turn, and how many times our seconds each other side took: the median of the pairs."""
    runs = [{side: in_process(side, path, peers) for side in sides} for _ in range(pairs)]
    ratios = {
        side: round(statistics.median(run[side]["seconds"] / run["ours"]["seconds"] for run in runs), 1)
        for side in sides[1:]
    }
    return {"pairs": runs, "times ours": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--whole", type=int, default=200_000, help="rows of the one long pair; 0 for none")
    parser.add_argument("--stream", type=float, default=0, help="GB of JSONL through our side alone")
    parser.add_argument("--peers", type=Path, help="the folder that peers.py --setup made")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        made = {"ours": ours, "trl": trl, "llamafactory": llamafactory}[given.side](given.file, given.base)
        return print("\n" + json.dumps(made))
    sides = ("ours", "trl", *(PEERS if given.peers else ()))
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = ("torch", "transformers", "trl", "datasets", "tokenizers")
    result |= {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in names},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.jsonl"
        if given.stream:
            write_rows(path, size=int(given.stream * 1e9))
            result[f"{given.stream:g} GB"] = {"ours": in_process("ours", path, None)}
        else:
            for rows, pairs in ((given.rows, given.pairs), (given.whole, 1)):
                if rows:
                    write_rows(path, rows)
                    result[f"{rows} rows"] = compared(path, sides, pairs, given.peers)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
