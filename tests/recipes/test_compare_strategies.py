"""The comparison runs each strategy in a process of its own, and its rows are honest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.recipes.compare_strategies import STRATEGIES, as_markdown, orders
from posttrain.stages.strategies import SHIPPED

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "compare_strategies.py"


def test_every_shipped_strategy_is_compared() -> None:
    assert {type(strategy) for strategy in STRATEGIES.values()} == set(SHIPPED)


def test_no_order_is_in_both_parts() -> None:
    trained, held_out = orders(400, seed=0), orders(48, seed=1)
    assert len({row["answer"] for row in trained} & {row["answer"] for row in held_out}) == 0
    assert trained == orders(400, seed=0)
    for row in trained[:20]:
        order = json.loads(row["answer"])
        assert all(str(order[key]) in row["question"] for key in ("name", "item", "count"))


def test_the_table_has_the_best_first() -> None:
    common = {"learning rate": 1e-3, "trained": 1000, "loss before": 2.0, "exact match": 0.5, "peak memory GB": 1.0,
              "tokens/s": 10.0, "adapter MB": 0.1}  # fmt: skip
    table = as_markdown(
        [{"strategy": "a", "loss after": 1.5, **common}, {"strategy": "b", "loss after": 1.0, **common}]
    )
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["b", "a"]


@pytest.mark.slow
def test_it_runs_as_a_script(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", "tiny-random", "--steps", "2", "--run-dir", str(tmp_path),
               "--only", "ia3", "--only", "lora, pissa"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["strategy"] for row in rows] == ["ia3", "lora, pissa"]
    assert all(row["trained"] > 0 and row["loss after"] < 11.0 and row["adapter MB"] > 0 for row in rows)
    assert (tmp_path / "table.md").exists() and (tmp_path / "plot.png").exists()
    again = subprocess.run(command[:-2], capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert again.stdout.startswith("--- ia3\n|")  # finished: neither loaded nor trained


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--run-dir", str(tmp_path), "--only", "lara"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 2
    assert "there is no strategy 'lara'" in " ".join(done.stderr.replace("\u2502", " ").split())
