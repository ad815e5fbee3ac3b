"""Nothing leaves the machine: no telemetry, no look-ups, with every library's own defaults."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import socket, sys
asked = []
def refuse(*place, **_):
    asked.append(place[-1] if isinstance(place[-1], (str, tuple)) else place[:2])
    raise OSError("no network here")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
sys.path.insert(0, sys.argv[1])
from tests.conftest import make_rows
import os; os.environ.pop("HF_HUB_OFFLINE", None)
from posttrain import DPO, SFT, LoRA, Pipeline
rows, lora = make_rows(12), LoRA(r=2)
Pipeline([SFT(lora, data=rows["chat"], max_steps=2), DPO(lora, data=rows["pairs"], max_steps=2)],
         model="tiny-random", run_dir=sys.argv[2]).run().model.load()
print("ASKED", asked)
"""


@pytest.mark.slow
def test_a_run_asks_the_network_for_nothing(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    hidden = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "TRANSFORMERS_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(root), str(tmp_path / "run")],
        capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k not in hidden},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ASKED []" in done.stdout
    ours = re.compile(r"(stage \d of 2  )?(sft|dpo): \S")
    assert [
        line for line in done.stderr.splitlines() if not ours.match(line)
    ] == []  # nobody warned about anything
