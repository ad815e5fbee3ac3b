"""The chain that is broken here: CPT -> SFT -> RewardModel -> DPO or PPO, a second a stage, a checkpoint at every step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import CPT, DPO, PPO, SFT, LoRA, Pipeline, RewardModel, Run, Stage
from posttrain.pipeline.digests import sha256_of
from tests.faults.moments import Arm
from tests.stages.words import WORDS

STAGES = ("cpt", "sft", "reward_model", "dpo", "ppo")
STEPS = 4


@dataclass(frozen=True)
class Chain:
    """On a model of 25 tokens. Two chains of equal settings make equal bytes."""

    model: Path
    cache: Path  # of the token tables
    dropout: float = 0.1
    seed: int = 3

    def upto(self, last: str) -> list[Stage]:
        """The stages to the one of this name; PPO takes the place of DPO."""
        lora = LoRA(r=4, dropout=self.dropout)
        common: dict[str, Any] = {
            "max_steps": STEPS,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "max_length": 32,
        }
        pairs = [
            {"prompt": f"{a} {b}", "chosen": "river river", "rejected": f"{b} {a}"}
            for a in WORDS[:4]
            for b in WORDS[4:10]
        ]
        chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
        prompts = [{"prompt": row["prompt"]} for row in pairs]
        before: list[Stage] = [
            CPT(lora, data=[{"text": row["prompt"]} for row in pairs], **common),
            SFT(lora, data=chats, **common),
            RewardModel(lora, data=pairs, **common),
        ]
        if last == "dpo":
            return [*before, DPO(lora, data=pairs, **common)]
        if last == "ppo":
            more = {"max_new_tokens": 6, "gate": None, "trainer_args": {"num_ppo_epochs": 2}}
            return [*before, PPO(lora, data=prompts, **more, **common)]
        return before[: STAGES.index(last) + 1]

    def pipeline(self, folder: Path, last: str) -> Pipeline:
        return Pipeline(self.upto(last), model=self.model, run_dir=folder, seed=self.seed)


def train(chain: Chain, last: str, folder: Path, log: Path, arms: Sequence[Arm]) -> None:
    """What a forked process does: arm the faults, then run. Everything it says goes to `log`."""
    import torch

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["POSTTRAIN_CACHE"] = str(chain.cache)
    torch.set_num_threads(1)
    pipeline = chain.pipeline(folder, last)
    for arm in arms:
        arm(folder)
    pipeline.run()


def fingerprints(folder: Path) -> dict[str, str]:
    """Of each stage: sha256 of its weights, and its steps, each of which must stand there once."""
    found = {}
    for record in Run.load(folder):
        record.verify()
        found[record.name] = sha256_of(record.folder / "adapter" / "adapter_model.safetensors")
        found[f"{record.name} steps"] = str([(line["step"], line["loss"]) for line in record.history])
        found[f"{record.name} metrics"] = str(sorted(record.metrics.items()))
    return found
