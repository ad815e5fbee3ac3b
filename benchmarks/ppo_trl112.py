"""TRL 1.12's experimental PPO on given token rows; run by ppo.py with the Python of TRL 1.12's own environment.

python ppo_trl112.py job.json result.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from ppo_clock import gemm_rate, peak_bytes
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Clock(TrainerCallback):
    """Seconds of each step, and the machine's rate beside it (GFLOP/s of a float32 product, between the steps)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.rates: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.rates.append(gemm_rate())
        self._begun = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._begun)
        self.on_train_begin()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    imported = peak_bytes()
    trainer, clock = make_trainer(job)
    record = Record() if job.get("record") else None
    trainer.train()
    result = {"seconds": clock.seconds, "rates": clock.rates, "peak_bytes": peak_bytes() - imported}
    if record is not None:
        torch.save(record.tensors, job["record"])
    Path(sys.argv[2]).write_text(json.dumps(result))


def make_trainer(job: dict[str, Any]) -> tuple[PPOTrainer, Clock]:
    torch.manual_seed(0)
    tokenizer, on_gpu = AutoTokenizer.from_pretrained(job["base"]), torch.cuda.is_available()
    clock = Clock()
    config = PPOConfig(
        output_dir=job["folder"], per_device_train_batch_size=job["batch_size"], learning_rate=job["learning_rate"],
        gradient_accumulation_steps=job["gradient_accumulation"], num_mini_batches=1, num_ppo_epochs=job["ppo_epochs"],
        total_episodes=job["steps"] * job["batch_size"] * job["gradient_accumulation"],
        response_length=job["new_tokens"], local_rollout_forward_batch_size=job["rollout_batch"], temperature=1.0,
        num_sample_generations=0, report_to="none", save_strategy="no", bf16=on_gpu, use_cpu=not on_gpu, disable_tqdm=True,
        gradient_checkpointing=False, logging_steps=1, stop_token="eos" if job["stops"] else None,
    )  # fmt: skip
    if job["stops"]:
        tokenizer.pad_token_id = job["pad_id"]
    score = {"num_labels": 1, "pad_token_id": job["pad_id"]}
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained(job["base"]), ref_model=None,
        reward_model=AutoModelForSequenceClassification.from_pretrained(job["base"], **score),
        value_model=AutoModelForSequenceClassification.from_pretrained(job["base"], **score),
        train_dataset=Dataset.from_dict({"input_ids": job["prompts"]}),
        eval_dataset=Dataset.from_dict({"input_ids": job["prompts"][:2]}), callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    return trainer, clock


class Record:
    """What goes in and out of TRL's formulas, in the order in which its one long method calls them."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[torch.Tensor]] = {}
        self._wrap("selective_log_softmax", lambda args, out: {"log_probs": out})
        self._wrap("get_reward", lambda args, out: {"values": out[0], "scores": out[1]})
        self._wrap(
            "masked_whiten", lambda args, out: {"advantages": args[0], "whitened": out, "mask": args[1]}
        )
        self._wrap("masked_mean", lambda args, out: {"means": out})
        self._wrap("forward", lambda args, out: {"new_values": out[1]} if isinstance(out, tuple) else {})
        permutation = np.random.permutation

        def permute(count: int) -> Any:
            order = permutation(count)
            self.tensors.setdefault("order", []).append(torch.tensor(order))
            return order

        np.random.permutation = permute
        self._wrap("batch_generation", lambda args, out: {"tokens": out[0], "prompts": args[1]})

    def _wrap(self, name: str, kept: Any) -> None:
        real = getattr(ppo_trainer, name)

        def call(*args: Any, **named: Any) -> Any:
            out = real(*args, **named)
            for key, value in kept((*args, *named.values()), out).items():
                self.tensors.setdefault(key, []).append(value.detach().clone())
            return out

        setattr(ppo_trainer, name, call)


if __name__ == "__main__":
    main()
