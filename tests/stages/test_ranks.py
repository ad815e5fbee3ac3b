"""Two processes (gloo) make what one makes with the same rows to a step; the first of them writes, all end together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, sys
from posttrain import CPT, DPO, GRPO, PPO, RLOO, SFT, Classifier, LoRA, Pipeline, RewardModel
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
    "quickstart": [
        CPT(lora, data=[{"text": row["prompt"]} for row in pairs], **common), SFT(lora, data=chats, **common),
        RewardModel(lora, data=pairs, **common), DPO(lora, data=pairs, **common),
    ],
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


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Not --cpu: it silently starts one process.
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes", "2")  # fmt: skip


def start(script: str, *words: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script by itself, or as two processes of a launcher."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, script, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def launch(
    tmp_path: Path, model: Path, size: int, chain: str, launcher: Sequence[str] = TORCHRUN
) -> tuple[Path, dict[str, list[list[float]]]]:
    folder, script = tmp_path / f"{chain} {size}", tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [str(model), str(folder), str(size), chain]
    done = start(str(script), *words, launcher=launcher if size > 1 else ())
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


@pytest.mark.parametrize(
    ("chain", "launcher"),
    [
        *[
            pytest.param(chain, TORCHRUN, marks=pytest.mark.slow)
            for chain in ("ppo", "groups", "chain", "labels")
        ],
        pytest.param("quickstart", ACCELERATE, marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_result_of_one(
    tmp_path: Path, words_model: Path, chain: str, launcher: Sequence[str]
) -> None:
    alone, losses = launch(tmp_path, words_model, 1, chain)
    together, same = launch(tmp_path, words_model, 2, chain, launcher)
    for stage, lines in losses.items():
        for one, other in zip(lines, same[stage], strict=True):
            assert other == pytest.approx(one, abs=1e-4), stage
    one, two = adapters(alone), adapters(together)
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert (values - two[name]).abs().max() < 1e-4, name
    assert not list(together.rglob("*.tmp"))


EACH_STRATEGY = """
import json, sys
from posttrain import SFT, Pipeline
from posttrain.pipeline import Ranks
from tests.stages.strategies.test_every_strategy import STRATEGIES
from tests.stages.words import WORDS

model, run_dir, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
assert Ranks.of_environment().size == size
chats = [{"prompt": f"{a} {b}", "completion": "river river"} for a in WORDS[:4] for b in WORDS[4:12]]
found = {}
for name, (strategy, rate, _) in STRATEGIES.items():
    steps = 12 if name == "adalora" else 3
    stage = SFT(strategy, data=chats, max_steps=steps, batch_size=8 // size, learning_rate=rate, max_length=48)
    run = Pipeline([stage], model=model, run_dir=f"{run_dir}/{name}", seed=3).run()
    found[name] = [line["loss"] for line in run["sft"].history] + [run["sft"].metrics["loss_after"]]
if Ranks.of_environment().main:
    print("FOUND " + json.dumps(found))
"""


@pytest.mark.slow
def test_every_strategy_trains_in_two_processes_as_in_one(tmp_path: Path, words_model: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(EACH_STRATEGY)
    found = []
    for size, launcher in ((1, ()), (2, TORCHRUN)):
        done = start(str(script), str(words_model), str(tmp_path / str(size)), str(size), launcher=launcher)
        assert done.returncode == 0, done.stderr[-6000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        found.append(json.loads(line.removeprefix("FOUND ")))
    one, two = found
    assert one.keys() == two.keys() and len(one) > 20
    for name, losses in one.items():
        # LoRA-GA's start is estimated in batches of batch_size, which is another one here
        assert two[name] == pytest.approx(losses, abs=5e-2 if name == "lora-ga" else 1e-4), name


# One rank of two comes to its end at step 2, as the file at argv[3] says, while the other goes on.
BROKEN = """
import os, signal, sys
from pathlib import Path
from posttrain import SFT, LoRA, Pipeline
from posttrain.stages.callbacks import Commit
from tests.stages.words import WORDS

model, run_dir, way = sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text()
real = Commit.on_save


def on_save(self, args, state, control, **rest):
    real(self, args, state, control, **rest)
    if state.global_step == 2 and os.environ.get("RANK") == way[-1]:
        if way.startswith("raise"):
            raise ValueError("this rank has had enough")
        os.kill(os.getpid(), signal.SIGKILL)


Commit.on_save = on_save
chats = [{"prompt": f"{a} {b}", "completion": "river river"} for a in WORDS[:4] for b in WORDS[4:12]]
stage = SFT(LoRA(r=4), data=chats, max_steps=4, batch_size=4, learning_rate=1e-3, max_length=32)
Pipeline([stage], model=model, run_dir=run_dir, seed=3).run()
"""


def run_broken(
    folder: Path, model: Path, way: str, *launcher: str, code: str = BROKEN
) -> subprocess.CompletedProcess[str]:
    """Two ranks that wait for each other for ever would run into the limit of `start`."""
    script, how = folder.parent / "script.py", folder.parent / "how"
    script.write_text(code)
    how.write_text(way)
    return start(str(script), str(model), str(folder), str(how), launcher=launcher or ACCELERATE)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_all_end_with_the_error_of_the_rank_that_raises(tmp_path: Path, words_model: Path, rank: int) -> None:
    broken = run_broken(tmp_path / "run", words_model, f"raise {rank}")
    assert broken.returncode == 1
    assert "ValueError: this rank has had enough" in broken.stderr


@pytest.mark.slow
def test_a_rank_is_killed_and_the_same_command_goes_on(tmp_path: Path, words_model: Path) -> None:
    assert run_broken(tmp_path / "whole", words_model, "no 9").returncode == 0
    killed = run_broken(tmp_path / "killed", words_model, "kill 1")
    assert killed.returncode == 1
    assert f"Signal {signal.SIGKILL:d} (SIGKILL) received" in killed.stderr
    (stage,) = (tmp_path / "killed" / "stages").iterdir()
    assert (stage / "checkpoints" / "step-2").is_dir() and not (stage / "stage.json").exists()
    assert run_broken(tmp_path / "killed", words_model, "no 9").returncode == 0
    one, two = adapters(tmp_path / "whole"), adapters(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all((values == two[name]).all() for name, values in one.items())


def test_fsdp_1_is_refused_when_it_is_launched(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: tiny-random\nrun_dir: {tmp_path / 'run'}\nstages: [SFT]\n")
    launcher = [word for word in ACCELERATE if word != "--multi_gpu"]
    done = start("-m", "posttrain", "run", str(recipe), launcher=(*launcher, "--use_fsdp"))
    assert done.returncode == 1
    assert "LaunchError: The launcher asks for FSDP with fsdp_version=1" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_folder_that_a_rank_does_not_see_is_refused(tmp_path: Path, words_model: Path) -> None:
    blind = BROKEN.replace("sys.argv[2], Path", "sys.argv[2] + os.environ['RANK'], Path")
    assert blind != BROKEN
    done = run_broken(tmp_path / "run", words_model, "no 9", *TORCHRUN, code=blind)
    assert done.returncode == 1
    assert "LaunchError: The machine " in done.stderr and "does not see the run folder" in done.stderr
