"""Every recipe builds, plans on the real sample data, and is counted."""

from pathlib import Path

import pytest

from posttrain.recipes.quickstart import quickstart
from posttrain.recipes.rlhf import rlhf

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_there_are_no_untested_recipes() -> None:
    found = {path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__"}
    assert found == {"quickstart", "rlhf", "compare_strategies"}


def test_quickstart_plans_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    pipeline = quickstart(model="tiny-random", run_dir=str(tmp_path / "run"))
    plans = pipeline.plan()
    assert [plan.held_out for plan in plans if plan] == [24, 32, 40, 40]
    assert all(plan.dropped == plan.cut == 0 for plan in plans if plan)
    assert plans[0] is not None and plans[0].trained_share == 1.0
    assert plans[1] is not None and 0.2 < plans[1].trained_share < 0.6  # the assistant's turns alone
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert "rows trained on" in printed and "peak memory" in printed


def test_rlhf_plans_without_weights(tmp_path: Path) -> None:
    """The critic's adapter and head are trained beside the policy's adapter, and are counted."""
    plans = rlhf(model="tiny-random", run_dir=str(tmp_path / "run")).plan()
    ppo, reward_model = plans[2], plans[1]
    assert ppo is not None and reward_model is not None and plans[0] is not None
    assert (ppo.rows, ppo.held_out, ppo.steps) == (120, 24, 10)
    assert ppo.trainable_parameters == plans[0].trainable_parameters + reward_model.trainable_parameters
    assert not (tmp_path / "run").exists()
