"""Every recipe builds, plans on the real sample data, and is counted."""

from pathlib import Path

import pytest

from posttrain.recipes.quickstart import quickstart

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_there_are_no_untested_recipes() -> None:
    assert [path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__"] == ["quickstart"]


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
