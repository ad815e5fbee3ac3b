"""Every recipe builds, plans on the real sample data, and is counted."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain import Pipeline
from posttrain.recipes import packaged
from posttrain.recipes.agent_tuning import agent_tuning
from posttrain.recipes.classification import classification
from posttrain.recipes.extraction import extraction
from posttrain.recipes.knowledge_injection import knowledge_injection
from posttrain.recipes.quickstart import quickstart
from posttrain.recipes.reasoning import reasoning
from posttrain.recipes.rlhf import rlhf
from posttrain.recipes.sft_dpo import sft_dpo
from posttrain.recipes.style_tuning import style_tuning
from posttrain.recipes.translation import translation

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
PIPELINES = {  # held-out rows of each stage
    quickstart: [24, 32, 40, 48],
    rlhf: [32, 40, 48],
    sft_dpo: [32, 40],
    extraction: [24],
    classification: [44, 44],
    agent_tuning: [24, 16],
    translation: [40],
    reasoning: [36, 36],
    knowledge_injection: [20, 40],
    style_tuning: [24, 24],
}
IDS = [recipe.__name__ for recipe in PIPELINES]


def test_there_are_no_untested_recipes() -> None:
    found = {path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    assert found == {*IDS, "compare_strategies"}
    assert len(found) == 11


@pytest.mark.parametrize(("recipe", "held_out"), PIPELINES.items(), ids=IDS)
def test_a_recipe_plans_without_weights(
    recipe: Callable[..., Pipeline], held_out: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "160")
    plans = [plan for plan in recipe(model="tiny-random", run_dir=str(tmp_path / "run")).plan() if plan]
    assert [plan.held_out for plan in plans] == held_out
    assert all(plan.dropped == plan.cut == 0 for plan in plans)
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert "rows trained on" in printed and "peak memory" in printed


@pytest.mark.parametrize("recipe", PIPELINES, ids=IDS)
def test_a_recipe_stays_short(recipe: Callable[..., Pipeline]) -> None:
    lines = (FOLDER / f"{recipe.__name__}.py").read_text().splitlines()
    assert 20 <= len(lines) <= 60
    assert sum(line.endswith("-> Pipeline:") or line.startswith(") -> Pipeline:") for line in lines) == 1
    assert (
        sum(line.startswith(("def ", "class ")) for line in lines) <= 2
    )  # the pipeline, and a rule that judges


def test_quickstart_trains_on_the_assistants_turns_alone(tmp_path: Path) -> None:
    cpt, sft, *_ = quickstart(model="tiny-random", run_dir=str(tmp_path / "run")).plan()
    assert cpt is not None and cpt.trained_share == 1.0
    assert sft is not None and 0.2 < sft.trained_share < 0.6


def test_rlhf_counts_the_critic(tmp_path: Path) -> None:
    """A critic of its own trains an adapter and a head beside the policy's adapter; a shared one has no adapter."""
    made = rlhf(model="tiny-random", run_dir=str(tmp_path / "run"))
    *before, ppo, _ = made.stages
    own = Pipeline([*before, replace(ppo, critic="adapter")], model="tiny-random", run_dir=tmp_path / "own")  # type: ignore[call-arg]
    sft, reward_model, shared, _ = made.plan()
    apart = own.plan()[2]
    assert sft is not None and reward_model is not None and shared is not None and apart is not None
    assert (shared.rows, shared.steps) == (120, 12)
    assert apart.trainable_parameters == sft.trainable_parameters + reward_model.trainable_parameters
    assert shared.trainable_parameters == sft.trainable_parameters + 128  # the value head


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_rlhf_by_another_way_differs_in_one_stage(tmp_path: Path, method: Any) -> None:
    with_ppo = rlhf(model="tiny-random", run_dir=str(tmp_path / "run"))
    other = rlhf(model="tiny-random", run_dir=str(tmp_path / "other"), method=method)
    assert [type(stage).__name__ for stage in other.stages] == [
        "SFT",
        "RewardModel",
        method.upper(),
        "Evaluate",
    ]
    assert [a == b for a, b in zip(with_ppo.stages, other.stages, strict=True)] == [True, True, False, True]


@pytest.mark.slow
def test_agent_tuning_runs_for_two_steps(tmp_path: Path) -> None:
    made = agent_tuning(model="tiny-random", run_dir=str(tmp_path / "run"))
    sft, dpo, again = made.stages
    stages = [replace(sft, max_steps=2, epochs=None), replace(dpo, max_steps=2), again]  # type: ignore[call-arg]
    run = Pipeline(stages, model="tiny-random", run_dir=tmp_path / "run").run()
    assert run["sft"].metrics["call_match_before"] == 0.0
    assert run["calls_after_dpo"].metrics["call_match"] == run["sft"].metrics["call_match_after"] == 0.0
    assert "call_match_after" in run["sft"].metrics and "accuracy_after" in run["dpo"].metrics


def test_ones_own_file_takes_the_place_of_the_packaged_rows(tmp_path: Path) -> None:
    lines = (FOLDER / "data" / "extraction.jsonl").read_text().splitlines(keepends=True)
    own = tmp_path / "notes.jsonl"
    own.write_text("".join(lines[:40]))
    assert packaged("extraction", str(own)) == {"data": str(own)}
    (plan,) = extraction(model="tiny-random", data=str(own), run_dir=str(tmp_path / "run")).plan()
    assert plan is not None and (plan.rows, plan.held_out) == (32, 8)


def test_a_recipe_is_a_script_with_flags(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "extraction.py")]
    here = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}  # whatever checkout is installed
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=here)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--model", "--data", "--run-dir", "--seed"))
    wrong = [*command, "--data", str(tmp_path / "notes.jsonl"), "--model", "tiny-random"]
    refused = subprocess.run(wrong, capture_output=True, text=True, env=here, cwd=tmp_path)
    assert refused.returncode == 2
    assert "notes.jsonl" in refused.stderr and "Traceback" not in refused.stderr
