"""The memory that `plan()` predicts against the memory that a run takes, each combination in a process of its own.

    python benchmarks/memory.py                            # on this machine's device; about 10 minutes on 2 cores
    python benchmarks/memory.py --only "sft lora 2x256"
    python benchmarks/memory.py --plan-only                # predict again, keep what was measured

On a CPU: the embedded 135M model; the peak is of the process's resident memory, above what its imports took. On a GPU:
the sizes below with random bfloat16 weights, so that no download is needed; the peak is what PyTorch's allocator gave
out while the stage trains, which is what the estimate is about (the CUDA context comes on top).

Most rows have `length` tokens and some a few less, so that batches are as long as planned and padded as real ones are.
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
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "memory.json"
STEPS = 2

# name: (stage, strategy, its settings, batch, length, settings of the stage)
CPU: dict[str, tuple[str, str, dict[str, Any], int, int, dict[str, Any]]] = {
    "sft lora 2x256": ("SFT", "LoRA", {"r": 16}, 2, 256, {}),
    "sft lora 4x512": ("SFT", "LoRA", {"r": 16}, 4, 512, {}),
    "sft lora 4x512 recomputed": ("SFT", "LoRA", {"r": 16}, 4, 512, {"trainer_args": {"gradient_checkpointing": True}}),
    "sft full 2x256": ("SFT", "Full", {}, 2, 256, {}),
    "sft full 1x256 accumulated": ("SFT", "Full", {}, 1, 256, {"gradient_accumulation": 2}),
    "sft freeze 4x256": ("SFT", "Freeze", {"layers": 4}, 4, 256, {}),
    "sft qlora 2x256": ("SFT", "QLoRA", {"r": 16}, 2, 256, {}),
    "cpt lora 8x128": ("CPT", "LoRA", {"r": 64}, 8, 128, {}),
    "reward lora 2x256": ("RewardModel", "LoRA", {"r": 16}, 2, 256, {}),
    "reward lora 1x256": ("RewardModel", "LoRA", {"r": 16}, 1, 256, {}),
    "dpo lora 2x256": ("DPO", "LoRA", {"r": 16}, 2, 256, {}),
    "dpo full 1x128": ("DPO", "Full", {}, 1, 128, {}),
}  # fmt: skip
_ON_GPU = {"trainer_args": {"gradient_checkpointing": True}}
GPU: dict[str, tuple[str, str, str, dict[str, Any], int, int, dict[str, Any]]] = {
    "1B sft full 4x1024": ("1B", "SFT", "Full", {}, 4, 1024, {}),
    "1B sft lora 8x1024": ("1B", "SFT", "LoRA", {"r": 16}, 8, 1024, {}),
    "1B dpo lora 4x1024": ("1B", "DPO", "LoRA", {"r": 16}, 4, 1024, {}),
    "3B sft lora 4x2048 recomputed": ("3B", "SFT", "LoRA", {"r": 16}, 4, 2048, _ON_GPU),
    "8B sft lora 4x1024": ("8B", "SFT", "LoRA", {"r": 16}, 4, 1024, {}),
    "8B sft qlora 4x1024 recomputed": ("8B", "SFT", "QLoRA", {"r": 16}, 4, 1024, _ON_GPU),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", help="the name of a combination; may be given several times"
    )
    parser.add_argument("--plan-only", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        given.out.write_text(json.dumps(one(given.one, trains=not given.plan_only)))
        return
    device = _device()
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = result.setdefault(device, {}).setdefault("combinations", {})
    for name in given.only or list(GPU if device == "GPU" else CPU):
        found[name] = found.get(name, {}) | _in_a_process(name, given.plan_only)
        line = found[name]
        if "measured_GB" in line:
            line["predicted / measured"] = round(line["predicted_GB"] / line["measured_GB"], 3)
        print(name, line, flush=True)
        if not given.plan_only:
            result[device] |= {
                "date": date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {p: version(p) for p in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
            }
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def _device() -> str:
    code = "import torch; print('GPU' if torch.cuda.is_available() else 'CPU')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


def _in_a_process(name: str, plan_only: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--one", name, "--out", str(out)]
        done = subprocess.run(command + ["--plan-only"] * plan_only, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def one(name: str, trains: bool) -> dict[str, Any]:
    """Plan a combination and, where asked, run it; the peak above the imports."""
    import bitsandbytes  # noqa: F401
    import torch
    import transformers
    from peft import LoraConfig  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
    from trl import DPOTrainer, RewardTrainer, SFTTrainer  # noqa: F401

    import posttrain
    from posttrain import Pipeline

    sys.path.insert(0, str(HERE))
    from ppo_clock import peak_bytes

    transformers.logging.set_verbosity_error()
    on_gpu = torch.cuda.is_available()
    size, kind, strategy, settings, batch, length, more = GPU[name] if on_gpu else (None, *CPU[name])
    with tempfile.TemporaryDirectory() as folder:
        stage = getattr(posttrain, kind)(
            getattr(posttrain, strategy)(**settings), data=rows(kind, length, 4 * batch),
            eval_data=rows(kind, length, 1), batch_size=batch, max_length=length, max_steps=STEPS,
            overlong="split" if kind == "CPT" else "truncate", **more,
        )  # fmt: skip
        model = "embedded" if size is None else random_model(llama(size), Path(folder) / "model")
        posttrain.SFT.answers_questions = False  # decoding takes minutes here and no memory worth the name
        pipeline = Pipeline([stage], model=model, run_dir=Path(folder) / "run")
        imported = peak_bytes()
        (plan,) = pipeline.plan()
        assert plan is not None
        found = {"predicted_GB": _gb(plan.memory_bytes)}
        found["parts_GB"] = {part: _gb(n) for part, n in plan.memory_parts.items()}
        if trains:
            peaks = watch_training() if on_gpu else []
            pipeline.run()
            found["measured_GB"] = _gb(peaks[0] if on_gpu else peak_bytes() - imported)
    return found


def watch_training() -> list[int]:
    """Filled with the peak of PyTorch's allocator while a stage trains, without loading and hand-over."""
    import torch

    from posttrain.stages.trl_session import TrlSession

    peaks: list[int] = []
    fit = TrlSession.fit

    def watched(self: Any, checkpoint: Any) -> None:
        torch.cuda.reset_peak_memory_stats()
        fit(self, checkpoint)
        peaks.append(torch.cuda.max_memory_allocated())

    TrlSession.fit = watched  # type: ignore[method-assign]
    return peaks


def _gb(count: float) -> float:
    return round(count / 1e9, 3)


def rows(kind: str, length: int, count: int) -> list[dict[str, Any]]:
    """Rows that are cut to `length` tokens, and every sixteenth one a few tokens shorter; no two begin alike."""
    draw, made = random.Random(0), []
    for i in range(count):
        words = (
            length - 4 * (kind == "CPT") if i % 16 else length - 40
        )  # documents are split, not cut: they must fit
        text = " ".join([f"{i}", *draw.choices(("river", "stone", "cloud", "house"), k=words)])
        if kind == "CPT":
            made.append({"text": text})
        elif kind == "SFT":
            made.append({"prompt": f"Say {i}.", "completion": text})
        else:
            made.append({"prompt": f"Say {i}.", "chosen": text, "rejected": f"No: {text}"})
    return made


def llama(size: str) -> Any:
    """The config of a size that the planner knows."""
    from transformers import LlamaConfig

    from posttrain.stages.planner.known_sizes import SHAPES

    return LlamaConfig(**SHAPES[size])


def random_model(config: Any, folder: Path) -> Path:
    """A bfloat16 model of that shape with random weights and the embedded model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from posttrain.pipeline.base_models import find_base, load_tokenizer

    tokenizer = load_tokenizer(find_base("embedded").folder)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


if __name__ == "__main__":
    main()
