"""The weighted sum of adapters, against sums of merged weights worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import ModelRef, combine
from posttrain.errors import CorruptArtifactError, SettingError, StrategyError, WrongBaseError
from posttrain.pipeline import Run
from tests.posttrain.serving.runs import random_lora, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("combined")
    style = write_run(folder / "style", {"cpt": random_lora(1, 2), "sft": random_lora(2, 3)})
    return style, write_run(folder / "agent", {"sft": random_lora(3, 4, ("mlp.down_proj",))})


def test_the_sum_is_exact_and_measured(
    runs: tuple[Run, Run], tmp_path: Path, rows: dict[str, list[Any]]
) -> None:
    style, agent = runs
    run = combine([style, agent.folder], weights=[0.5, -2.0], data=rows["chat"][:6], run_dir=tmp_path / "sum")
    weights = [ref.load_model().state_dict() for ref in (run.start, style.model, agent.model, run.model)]
    for base, first, second, summed in zip(*(one.values() for one in weights), strict=True):
        assert torch.allclose(summed, base + 0.5 * (first - base) - 2.0 * (second - base), atol=1e-5)
    record = run["combine"]
    assert record.proofs["read_back_difference"] < 1e-3
    assert record.metrics["rank"] == 2 + 3 + 4  # of down_proj; the others have 5
    assert record.metrics["cut"] == 0.0
    assert record.metrics["loss_before"] != record.metrics["loss_after"]
    assert "loss_change" in record.intervals
    assert Run.load(run.folder).model == run.model  # a run as any other


def test_a_rank_cuts_the_sum(runs: tuple[Run, Run], tmp_path: Path) -> None:
    run = combine([one.model for one in runs], rank=3, run_dir=tmp_path / "cut")
    assert run["combine"].metrics["rank"] == 3
    assert 0.05 < run["combine"].metrics["cut"] < 1
    wide = combine([one.model for one in runs], rank=9, run_dir=tmp_path / "wide")
    assert wide["combine"].metrics["cut"] == pytest.approx(0.0, abs=1e-6)


def test_what_cannot_be_combined_is_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    style, agent = runs
    with pytest.raises(SettingError, match="2 models and 1 weights"):
        combine(runs, weights=[1.0])
    with pytest.raises(SettingError, match=r"models\[1\] is the base itself"):
        combine([style, style.start])
    with pytest.raises(WrongBaseError, match="only adapters of one base"):
        combine([style, ModelRef("other", "f" * 64, agent.model.adapters)])
    with pytest.raises(SettingError, match="rank must be"):
        combine(runs, rank=0)
    dora = write_run(tmp_path / "dora", {"sft": random_lora(5, 2)}, change=as_dora)
    with pytest.raises(StrategyError, match="more than its two factors"):
        combine([style, dora], run_dir=tmp_path / "refused")


def test_a_damaged_adapter_is_not_combined(runs: tuple[Run, Run], tmp_path: Path) -> None:
    broken = write_run(tmp_path / "broken", {"sft": random_lora(6, 2)})
    (broken["sft"].folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CorruptArtifactError):
        combine([runs[0], broken], run_dir=tmp_path / "refused")


def as_dora(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
