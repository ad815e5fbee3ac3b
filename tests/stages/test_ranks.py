"""Two processes (gloo) make what one makes with the same rows to a step; the first of them writes, all end together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, sys
from posttrain import DPO, GRPO, PPO, RLOO, SFT, Classifier, LoRA, Pipeline, RewardModel
from posttrain.pipeline import Ranks
from tests.stages.words import WORDS


def letters(prompts, completions, **_):
    return [len(text) / 40 for text in completions]


model, run_dir, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
part = 8 // size  # rows of a step and process: eight of all
lora = LoRA(r=4)
pairs = [{"prompt": f"{a} {b}", "chosen": "river river", "rejected": f"{b} {a}"} for a in WORDS[:4] for b in WORDS[4:12]]
chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
prompts = [{"prompt": row["prompt"]} for row in pairs]
common = dict(max_steps=3, batch_size=part, learning_rate=1e-3, max_length=32)
online = dict(data=prompts, max_new_tokens=6)
stages = {
    "chain": [
        SFT(lora, data=chats, **common), RewardModel(lora, data=pairs, **common), DPO(lora, data=pairs, **common),
    ],
    "ppo": [
        RewardModel(lora, data=pairs, **common),
        PPO(lora, **online, gate=None, ptx_data=chats, trainer_args={"num_mini_batches": 2}, **common),
    ],
    "groups": [
        GRPO(lora, reward=letters, num_generations=4, **online, **common),
        RLOO(lora, reward=letters, num_generations=2, **online, **common),
    ],
    "labels": [Classifier(lora, data=[{"text": row["prompt"], "label": i % 3} for i, row in enumerate(pairs)], **common)],
}[sys.argv[4]]
run = Pipeline(stages, model=model, run_dir=run_dir, seed=3).run()
if size > 1:
    import torch.distributed as dist

    assert (dist.get_backend(), dist.get_world_size()) == ("gloo", 2)
assert Ranks.of_environment().size == size
if Ranks.of_environment().main:
    found = {record.name: [[line[name] for name in ("loss", "reward", "kl", "value_loss") if name in line]
                           for line in record.history] for record in run}
    print("FOUND " + json.dumps(found))
"""


def launch(tmp_path: Path, model: Path, size: int, chain: str) -> tuple[Path, dict[str, list[list[float]]]]:
    folder, script = tmp_path / f"{chain} {size}", tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = [str(script), str(model), str(folder), str(size), chain]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command = [sys.executable, *(torchrun if size > 1 else []), *arguments]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return folder, found


def adapters(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        f"{path.parent.parent.name.rsplit('-', 1)[0]} {name}": value
        for path in folder.rglob("adapter_model.safetensors")
        for name, value in load_file(path).items()
    }


@pytest.mark.parametrize("chain", ["ppo", "groups", "chain", "labels"])
def test_two_processes_give_the_result_of_one(tmp_path: Path, words_model: Path, chain: str) -> None:
    alone, losses = launch(tmp_path, words_model, 1, chain)
    together, same = launch(tmp_path, words_model, 2, chain)
    for stage, lines in losses.items():
        for one, other in zip(lines, same[stage], strict=True):
            assert other == pytest.approx(one, abs=1e-4), stage
    one, two = adapters(alone), adapters(together)
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert (values - two[name]).abs().max() < 1e-4, name
    assert not list(together.rglob("*.tmp"))
