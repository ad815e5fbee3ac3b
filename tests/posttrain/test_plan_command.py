"""`posttrain plan`: the table, the reason, and the exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def plan(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posttrain", "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})


def test_the_table_and_the_reason_fit_80_columns(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(num_hidden_layers=4, hidden_size=512, intermediate_size=1024).save_pretrained(tmp_path)
    done = plan("--memory", "24GB", "--model", str(tmp_path), "--stage", "DPO", "--max-length", "512")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "rows of 512 tokens" in done.stdout
    (chosen,) = [line for line in lines if line.lstrip().startswith(">")]
    assert chosen.split()[1] == "Full()" and chosen.split()[-1] == "chosen"
    assert "auto('24GB') takes Full()" in " ".join(done.stdout.split())


def test_nothing_that_fits_is_exit_code_1(tmp_path: Path) -> None:
    done = plan("--memory", "0.5GB", "--model", "1B")
    assert done.returncode == 1
    assert "Nothing fits: the least needs" in done.stdout and "chosen" not in done.stdout


def test_what_the_estimate_leaves_out_is_said(tmp_path: Path) -> None:
    done = plan("--memory", "8GB", "--model", "7B")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "auto('8GB') takes QLoRA(r=4, alpha=16, dropout=0.05): only 4-bit weights fit" in said
    assert (
        "loading and merging a QLoRA base take its 16-bit weights, 12.6 GB, which this GPU does not hold"
        in said
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--memory", "8 gigs", "--model", "7B"), "SettingError: memory='8 gigs': memory must be a number with its unit"),
        (("--memory", "8GB", "--model", "9B"), "ModelError: Model '9B' is no folder, not in the local Hub cache"),
        (("--memory", "8GB", "--model", "7B", "--stage", "STF"), "SettingError: --stage STF: there is no such stage."),
        (("--memory", "8GB", "--model", "7B", "--stage", "sft"), "Did you mean SFT?"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_answered_is_exit_code_2(words: tuple[str, ...], sentence: str) -> None:
    done = plan(*words)
    assert done.returncode == 2
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1
