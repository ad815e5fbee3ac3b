"""SIGKILL at random moments of a whole chain: run again, and the result is the same to the bit."""

import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, PPO, SFT, LoRA, Pipeline, RewardModel
from posttrain.pipeline.digests import sha256_of

SEED = 20
# A thread that starts a process asks for the others' exit codes too; of two that ask at once, one is told 255.
UNKNOWN = 255


def length(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
    return [len(text) / 40 for text in completions]


def chain(folder: Path) -> Pipeline:
    """CPT -> SFT -> RewardModel -> DPO -> PPO with dropout, a checkpoint at every step."""
    from tests.conftest import make_rows

    rows = make_rows(24)
    lora = LoRA(r=4, dropout=0.1)
    common: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 128}
    stages = [
        CPT(lora, data=rows["text"], **common),
        SFT(lora, data=rows["chat"], **common),
        RewardModel(lora, data=rows["pairs"], **common),
        DPO(lora, data=rows["pairs"], **common),
        PPO(
            lora,
            data=[{"prompt": row["prompt"]} for row in rows["pairs"]],
            reward=length,
            max_new_tokens=8,
            **common,
        ),
    ]
    return Pipeline(stages, model="tiny-random", run_dir=folder)


def run_chain(folder: str) -> None:
    import torch

    torch.set_num_threads(1)
    chain(Path(folder)).run()


def fingerprints(folder: Path) -> dict[str, str]:
    """sha256 of every trained weight file, and each stage's metrics lines without the clock."""
    run = Pipeline.load(folder)
    found = {
        record.name: sha256_of(record.folder / "adapter" / "adapter_model.safetensors") for record in run
    }
    for record in run:
        found[f"{record.name} steps"] = str([(line["step"], line["loss"]) for line in record.history])
    return found


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes forked from one that has the libraries loaded, so that a case costs seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preload"])
    return context


def start(server: ForkServerContext, folder: Path) -> ForkServerProcess:
    process = server.Process(target=run_chain, args=(str(folder),))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_a_killed_chain_ends_bit_identical(server: ForkServerContext, tmp_path: Path, kills: int) -> None:
    def whole(name: str) -> float:
        begun = time.monotonic()
        process = start(server, tmp_path / name)
        process.join()
        assert process.exitcode in (0, UNKNOWN)  # what it made is compared anyway
        return time.monotonic() - begun

    def kill_and_run_again(case: int, moment: float) -> bool:
        """Whether the kill hit a stage while it trained."""
        folder = tmp_path / f"case {case}"
        process = start(server, folder)
        process.join(timeout=moment)
        hit = process.is_alive() and any(folder.glob("stages/*/checkpoints"))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            assert process.exitcode in (-signal.SIGKILL, UNKNOWN)
        assert whole(folder.name) > 0
        assert fingerprints(folder) == expected, f"case {case}, killed after {moment:.2f} s"
        assert not list(folder.rglob("*.corrupt-*"))
        return hit

    with ThreadPoolExecutor(2) as pool:  # a process a core
        durations = list(pool.map(whole, ["first", "second"]))
        expected = fingerprints(tmp_path / "first")
        assert len(expected) == 10
        assert fingerprints(tmp_path / "second") == expected  # so that the comparisons mean something
        draw = random.Random(SEED)
        moments = [draw.uniform(0.05, 0.95) * max(durations) for _ in range(kills)]
        hits = list(pool.map(kill_and_run_again, range(kills), moments))
    assert sum(hits) >= kills // 5  # the others hit loading, measuring, saving, or the time between stages
