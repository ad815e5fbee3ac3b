"""SIGKILL at moments of an export: nothing is left that looks finished, and the next export clears it away."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain import Export, Run
from posttrain.pipeline.durable import verify_folder
from posttrain.stages.export.place import MANIFEST
from posttrain.stages.export.source import source_of
from posttrain.stages.export.work import export_model
from tests.stages.export.conftest import quiet

ROOT = Path(__file__).resolve().parents[3]
# A part of the work at which the process waits to be killed.
HANGS = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from posttrain import Export
from posttrain.stages.export import place, work
from posttrain.stages.export.source import read_source
def hang(*_):
    print("here", flush=True)
    time.sleep(600)
{patch}
work.export_model(Export(), read_source({run!r}), Path({out!r}), lambda _: None)
"""
MOMENTS = {
    "before the proof": "work.prove = hang",
    "when all is written": "work.adopt_folder = hang",
    "before the last rename": "import posttrain.pipeline.durable as d; d._sync_folder = hang",
}


@pytest.mark.slow  # a process that loads everything anew
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_kill_at_a_moment(lora_run: Run, same_process: None, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    code = HANGS.format(root=str(ROOT), patch=MOMENTS[moment], run=str(lora_run.folder), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    assert not out.exists() and len(list(tmp_path.glob(".out.*.tmp"))) == 1
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()  # what is left has the name of something unfinished
    export_model(Export(), source_of(lora_run, lora_run.model), out, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_kills_at_random_moments(lora_run: Run, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "posttrain",
        "export",
        str(lora_run.folder),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole = time.monotonic() - begun
    draw = random.Random(0)
    for case in range(5):
        out = tmp_path / f"case {case}"
        process = subprocess.Popen([*command[:-1], str(out)], env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=draw.uniform(0.3, 1.1) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if out.exists():  # then it is whole
            assert verify_folder(out, manifest_name=MANIFEST)["facts"]["golden"]["token_ids_equal"]
