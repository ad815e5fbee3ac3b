"""What the pipeline costs over the same stages in plain TRL: paired runs, A B A B, each in a process of its own.

    python benchmarks/overhead.py                  # about 30 minutes on 2 cores
    python benchmarks/overhead.py --pairs 1

Both sides do the same work on the embedded model: SFT then DPO with LoRA r=16, the same rows, steps, batch sizes and
seeds; each stage measures the held-out rows before and after, saves checkpoints and its adapter, merges, and answers
three prompts. The pipeline does its proofs, manifests, fsyncs and reading back on top of that. "plain+" is plain TRL
with the allocator setting that the pipeline uses, so that the comparison does not hide overhead behind that gain.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

STEPS, BATCH, HELD_OUT = {"sft": 16, "dpo": 10}, {"sft": 8, "dpo": 4}, 24
RESULTS = Path(__file__).with_name("overhead.json")


def sample_rows(kind: str, held_out: bool, count: int | None = None) -> list[dict]:
    from posttrain.data_formats import sample

    lines = sample(kind, held_out=held_out).read_text().splitlines()[:count]  # type: ignore[arg-type]
    return [json.loads(line) for line in lines]


def ours(folder: Path) -> None:
    from posttrain import DPO, SFT, LoRA, Pipeline

    lora = LoRA(r=16)
    chat, chat_eval = sample_rows("conversation", False), sample_rows("conversation", True, HELD_OUT)
    pairs, pairs_eval = sample_rows("preference", False), sample_rows("preference", True, HELD_OUT)
    sft = SFT(lora, data=chat, eval_data=chat_eval, max_steps=STEPS["sft"], batch_size=BATCH["sft"])
    dpo = DPO(lora, data=pairs, eval_data=pairs_eval, max_steps=STEPS["dpo"], batch_size=BATCH["dpo"])
    Pipeline([sft, dpo], run_dir=folder).run()


def plain(folder: Path, keep_memory: bool) -> None:
    """A careful user's script: no proofs, nothing read back."""
    import contextlib

    from posttrain.pipeline.allocator import freed_memory_kept

    with freed_memory_kept() if keep_memory else contextlib.nullcontext():
        _plain(folder)


def _plain(folder: Path) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from posttrain.pipeline.base_models import find_base

    base = find_base("embedded").folder
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

    def as_completion(row: dict) -> dict:
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}

    for name, trainer_class, config_class, rate in (
        ("sft", SFTTrainer, SFTConfig, 2e-4),
        ("dpo", DPOTrainer, DPOConfig, 1e-5),
    ):
        kind = "conversation" if name == "sft" else "preference"
        rows, held = sample_rows(kind, False), sample_rows(kind, True, HELD_OUT)
        if name == "sft":
            rows, held = [as_completion(row) for row in rows], [as_completion(row) for row in held]
        config = config_class(
            output_dir=str(folder / name), max_steps=STEPS[name], per_device_train_batch_size=BATCH[name],
            learning_rate=rate, logging_steps=1, save_steps=max(1, STEPS[name] // 10), save_total_limit=2, bf16=False,
            use_cpu=True, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = trainer_class(
            model=model, args=config, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(held),
            processing_class=tokenizer, peft_config=lora,
        )  # fmt: skip
        trainer.evaluate()
        trainer.train()
        trainer.evaluate()
        trainer.save_model(str(folder / name / "adapter"))
        model = trainer.model.merge_and_unload()
        prompts = [
            tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            for row in held[:3]
        ]
        batch = tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        with torch.no_grad():
            model.eval().generate(**batch, max_new_tokens=40, do_sample=False)


def measure(side: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, "--side", side, "--folder", folder], check=True, capture_output=True
        )
        return {"seconds": round(time.monotonic() - begun, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "plain", "plain+"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.side == "ours":
        return ours(given.folder / "run")
    if given.side:
        return plain(given.folder, keep_memory=given.side == "plain+")
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "plain+": []}
    for pair in range(given.pairs):
        for side in seconds:
            seconds[side].append(measure(side)["seconds"])
            print(f"pair {pair + 1}: {side} {seconds[side][-1]:.1f} s", flush=True)
        print(json.dumps(write_result(seconds), indent=2), flush=True)


def write_result(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Everything measured so far, kept after each pair."""
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "seconds": seconds,
        "ratio ours / plain": round(medians["ours"] / medians["plain"], 4),
        "ratio ours / plain+": round(medians["ours"] / medians["plain+"], 4),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
