"""The load benchmark in small: what it checks holds, and its figures are written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "load.py"


@pytest.mark.slow
def test_nothing_is_lost_in_small(tmp_path: Path) -> None:
    results = tmp_path / "load.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--scale", "0.02", "--results", str(results)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(results.read_text())
    counts = (
        found["rows"]["rows"],
        found["lines"]["lines"],
        found["stages"]["stages"],
        found["requests"]["requests"],
    )
    assert counts == (40_000, 2_000, 10, 20)
    assert found["requests"]["at_once"] == 640
