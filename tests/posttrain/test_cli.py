"""The command line: one sentence for a user's mistake, exit codes as documented."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline
from posttrain.errors import RunInterrupted
from posttrain.pipeline.interrupt import StopRequest


def posttrain(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain", *words], capture_output=True, text=True)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    done = posttrain("show", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"RunFolderError: {tmp_path} is no run folder: it has no run.json.\n"


def test_show_prints_the_numbers_of_a_run(
    tiny: Callable[..., Pipeline], rows: dict[str, list[dict[str, Any]]]
) -> None:
    run = tiny([SFT(LoRA(r=2), data=rows["chat"], max_steps=2, batch_size=4)]).run()
    done = posttrain("show", str(run.folder))
    assert done.returncode == 0
    assert f"{run['sft'].metrics['loss_after']:.4f}" in done.stdout
    assert "read back difference" in done.stdout
    asked = [line.partition(", asked: ")[2] for line in done.stdout.splitlines() if ", asked: " in line]
    assert asked and set(asked) <= {row["messages"][0]["content"] for row in rows["chat"]}
    assert f"Report: {run.folder / 'report.html'}" in done.stdout


def test_show_says_how_an_unfinished_run_stands(
    tiny: Callable[..., Pipeline], rows: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny([SFT(LoRA(r=2), data=rows["chat"], max_steps=2, batch_size=4)])
    with monkeypatch.context() as patched, pytest.raises(RunInterrupted):
        patched.setattr(StopRequest, "agreed", lambda self: "SIGTERM")
        pipeline.run()
    done = posttrain("show", str(pipeline.run_dir))
    assert done.returncode == 0
    (said,) = done.stdout.splitlines()[-1:]
    assert (
        said.startswith("This run is stopped, in stage sft.")
        and "Run the same command again to go on." in said
    )
    assert "Proofs" not in done.stdout and "trained on" not in done.stdout  # no tables without rows


def test_a_mistyped_command_names_the_nearest() -> None:
    for typed, meant in (("rnu", "run"), ("stratgies", "strategies"), ("chatt", "chat")):
        done = posttrain(typed)
        assert done.returncode == 2
        assert f"No such command {typed!r}; did you mean {meant!r}?" in done.stderr
    assert "did you mean" not in posttrain("xyzzy").stderr


def test_strategies_are_listed_from_the_code() -> None:
    done = posttrain("strategies")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("Full", "LoRA", "QLoRA", "PromptTuning"))
    head = done.stdout.splitlines()[2]
    assert head.split() == [
        "strategy",
        "merge",
        "on",
        "equal",
        "base",
        "base",
        "KTO",
        "GRPO",
        "vLLM",
        "base",
        "memory",
        "FSDP",
    ]


def test_a_recipe_has_its_parameters_as_flags() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, root / "recipes" / "quickstart.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--model", "--run-dir", "--seed"))
    wrong = subprocess.run(
        [sys.executable, root / "recipes" / "quickstart.py", "--model", "./nowhere"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("ModelError: Model './nowhere' is neither a folder nor a Hub id")
