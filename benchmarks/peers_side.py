"""One side of peers.py, in the Python of whoever is measured: run a job, say what it took.

What is measured is measured in one way on all sides: by the methods of transformers' Trainer, which all of them train with.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    clock = Clock(float(sys.argv[2]))
    job["folder"] = Path(job["folder"])
    side = job["side"].split(",")[0]
    {"posttrain": posttrain, "trl": trl, "llamafactory": llamafactory, "swift": swift}[side](job)
    (job["folder"] / "result.json").write_text(json.dumps(clock.result()))


class Clock:
    """Times `train()` and the first step of the only trainer of this process."""

    def __init__(self, begun: float) -> None:
        from transformers import Trainer, TrainerCallback

        self.begun, self.first_step, self.loop, self.loss = begun, 0.0, 0.0, 0.0
        self.ends: list[float] = []  # of the steps
        train, clock = Trainer.train, self

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if args.device.type == "cuda":
                    import torch

                    torch.cuda.synchronize()
                clock.ends.append(time.time())
                clock.first_step = clock.first_step or clock.ends[0] - clock.begun

        def timed(trainer: Any, *args: Any, **settings: Any) -> Any:
            trainer.add_callback(Steps())
            start = time.time()
            out = train(trainer, *args, **settings)
            clock.loop, clock.loss = time.time() - start, out.training_loss
            return out

        Trainer.train = timed

    def result(self) -> dict[str, float]:
        import torch

        (peak,) = [
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
        ]
        resident, steps = int(peak.split()[1]) * 1024, [b - a for a, b in pairwise(self.ends)]
        on_gpu = {"step": round(statistics.median(steps[1:]), 4)} if torch.cuda.is_available() else {}
        return {
            "loop": round(self.loop, 2), "first_step": round(self.first_step, 2), "steps": len(self.ends),
            "loss": round(self.loss, 4),
            "peak_GB": round((torch.cuda.max_memory_allocated() if on_gpu else resident) / 1e9, 3), **on_gpu,
        }  # fmt: skip


def chats(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows as TRL takes them: a text, or a prompt and a completion or two."""
    if job["work"] == "cpt":
        return list(job["rows"])
    keys = {"answer": "completion", "chosen": "chosen", "rejected": "rejected"}
    return [
        {
            "prompt": [
                {"role": "system", "content": job["system"]},
                {"role": "user", "content": row["question"]},
            ]
        }
        | {keys[key]: [{"role": "assistant", "content": row[key]}] for key in keys if key in row}
        for row in job["rows"]
    ]


def posttrain(job: dict[str, Any]) -> None:
    pipeline_of(job).run()


def pipeline_of(job: dict[str, Any]) -> Any:
    from posttrain import CPT, DPO, SFT, Full, LoRA, Pipeline, QLoRA, RewardModel

    adapter = {"r": job["r"], "alpha": job["alpha"], "target_modules": job["targets"]}
    strategy = {"lora": lambda: LoRA(**adapter), "qlora": lambda: QLoRA(**adapter), "full": Full}[
        job["strategy"]
    ]()
    kind = {"cpt": CPT, "sft": SFT, "dpo": DPO, "reward": RewardModel}[job["work"]]
    stage = kind(
        strategy, data=chats(job), eval_data=chats(job)[:1], max_steps=job["steps"], batch_size=job["batch_size"],
        max_length=job["max_length"], learning_rate=job["learning_rate"],
        overlong="split" if job["work"] == "cpt" else "truncate",
    )  # fmt: skip
    SFT.answers_questions = False  # what the others do not do either
    return Pipeline([stage], model=job["base"], run_dir=job["folder"] / "run")


def trl(job: dict[str, Any]) -> None:
    """As its documentation has it: on a GPU with its defaults, which compute activations again."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BitsAndBytesConfig,
    )
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    trainer_class, config_class = {
        "cpt": (SFTTrainer, SFTConfig), "sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig),
        "reward": (RewardTrainer, RewardConfig),
    }[job["work"]]  # fmt: skip
    packed, on_gpu, strategy = (
        job["settings"].get("packing", False),
        torch.cuda.is_available(),
        job["strategy"],
    )
    loader = AutoModelForSequenceClassification if job["work"] == "reward" else AutoModelForCausalLM
    more: dict[str, Any] = {"num_labels": 1} if job["work"] == "reward" else {}
    more["dtype"] = torch.bfloat16 if on_gpu and strategy != "full" else torch.float32
    if strategy == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=more["dtype"],
        )  # fmt: skip
    model = loader.from_pretrained(job["base"], **more)
    config = config_class(
        output_dir=str(job["folder"] / "trl"), seed=job["seed"], learning_rate=job["learning_rate"],
        max_steps=job["steps"] if on_gpu else -1, num_train_epochs=1,
        # A packed row of one, four times, is what makes TRL's packing pay on a CPU.
        per_device_train_batch_size=1 if packed else job["batch_size"],
        gradient_accumulation_steps=job["batch_size"] if packed else 1, max_length=job["max_length"], logging_steps=1,
        bf16=on_gpu, use_cpu=not on_gpu, gradient_checkpointing=on_gpu, report_to="none", disable_tqdm=True,
        **job["settings"],
    )  # fmt: skip
    lora = LoraConfig(
        r=job["r"], lora_alpha=job["alpha"], target_modules=job["targets"],
        task_type="SEQ_CLS" if job["work"] == "reward" else "CAUSAL_LM",
    )  # fmt: skip
    trainer = trainer_class(
        model=model, args=config, train_dataset=Dataset.from_list(chats(job)),
        peft_config=None if strategy == "full" else lora,
        processing_class=AutoTokenizer.from_pretrained(job["base"]),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(job["folder"] / "adapter"))


def llamafactory(job: dict[str, Any]) -> None:
    from llamafactory.train.tuner import run_exp

    folder, pairs = job["folder"], job["work"] in ("dpo", "reward")
    if job["work"] == "cpt":
        columns, rows = {"prompt": "text"}, job["rows"]
    else:
        columns = {"prompt": "question", "system": "system"} | (
            {"chosen": "chosen", "rejected": "rejected"} if pairs else {"response": "answer"}
        )
        rows = [row | {"system": job["system"]} for row in job["rows"]]
    packing = (
        {}
        if job["work"] == "cpt"
        else dict.fromkeys(("packing", "neat_packing"), job["settings"].get("packing", False))
    )
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json", "ranking": pairs, "columns": columns}})
    )
    run_exp({
        "stage": {"cpt": "pt", "sft": "sft", "dpo": "dpo", "reward": "rm"}[job["work"]], "do_train": True, "model_name_or_path": job["base"],
        "dataset": "rows", "dataset_dir": str(folder), "template": "chatml", "cutoff_len": job["max_length"],
        "finetuning_type": "lora", "lora_rank": job["r"], "lora_alpha": job["alpha"], "lora_target": ",".join(job["targets"]),
        "per_device_train_batch_size": job["batch_size"], "gradient_accumulation_steps": 1, "num_train_epochs": 1,
        "learning_rate": job["learning_rate"], "output_dir": str(folder / "out"), "logging_steps": 1, "report_to": "none",
        "seed": job["seed"], "use_cpu": True, "bf16": False, "disable_gradient_checkpointing": True, "overwrite_output_dir": True,
        "preprocessing_num_workers": 1, **packing,
    })  # fmt: skip


def swift(job: dict[str, Any]) -> None:
    folder, pairs = job["folder"], job["work"] != "sft"
    lines = []
    for row in job["rows"]:
        turns = [
            {"role": "system", "content": job["system"]},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["chosen" if pairs else "answer"]},
        ]
        lines.append(
            json.dumps({"messages": turns} | ({"rejected_response": row["rejected"]} if pairs else {}))
        )
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    arguments = [
        "--model", job["base"], "--model_type", "llama", "--template", "chatml", "--dataset", str(folder / "rows.jsonl"),
        "--tuner_type", "lora", "--lora_rank", str(job["r"]), "--lora_alpha", str(job["alpha"]),
        "--target_modules", *job["targets"], "--torch_dtype", "float32", "--max_length", str(job["max_length"]),
        "--per_device_train_batch_size", str(job["batch_size"]), "--gradient_accumulation_steps", "1",
        "--num_train_epochs", "1", "--learning_rate", str(job["learning_rate"]), "--output_dir", str(folder / "out"),
        "--logging_steps", "1", "--gradient_checkpointing", "false", "--split_dataset_ratio", "0", "--use_hf", "true",
        "--seed", str(job["seed"]), "--report_to", "none", "--save_strategy", "epoch", "--use_cpu", "true", "--bf16", "false", "--fp16", "false",
    ]  # fmt: skip
    if pairs:
        from swift import rlhf_main

        rlhf_main(["--rlhf_type", "dpo" if job["work"] == "dpo" else "rm", *arguments])
    else:
        from swift import sft_main

        sft_main(arguments)


if __name__ == "__main__":
    main()
