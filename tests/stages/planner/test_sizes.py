"""A model's counts are made once, and made again when anything that decides them changes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from posttrain import SFT, LoRA, RewardModel
from posttrain.stages.planner import sizes as module
from posttrain.stages.planner.sizes import Sizes, sizes_of
from posttrain.stages.training_stage import TrainingStage


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """What was really counted: its strategies, in order."""
    real, seen = module._count, list[object]()

    def count(strategy: object, *others: object) -> Sizes:
        seen.append(strategy)
        return real(strategy, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_count", count)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    return seen


def anew(stage: TrainingStage) -> Sizes:
    """As another process would ask."""
    module._sizes.cache_clear()
    return sizes_of(stage, "1B")


def test_the_second_process_counts_nothing_and_finds_the_same(counted: list[object], tmp_path: Path) -> None:
    first = anew(SFT(LoRA(r=3)))
    assert anew(SFT(LoRA(r=3))) == first
    assert len(counted) == 1
    other, reward = anew(SFT(LoRA(r=4))), anew(RewardModel(LoRA(r=3)))
    assert len(counted) == 3
    assert other.trainable * 3 == first.trainable * 4
    assert reward != first


def test_other_libraries_and_other_code_of_ours_count_again(
    counted: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    anew(SFT(LoRA(r=3)))
    monkeypatch.setattr(module, "_our_code", lambda: "another")
    anew(SFT(LoRA(r=3)))
    monkeypatch.setattr(module, "version", lambda library: "99" if library == "peft" else "1")
    anew(SFT(LoRA(r=3)))
    assert len(counted) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"total": 1}'])
def test_a_damaged_note_is_made_again(counted: list[object], tmp_path: Path, damage: str) -> None:
    first = anew(SFT(LoRA(r=3)))
    (note,) = (tmp_path / "sizes").iterdir()
    note.write_text(damage)
    assert anew(SFT(LoRA(r=3))) == anew(SFT(LoRA(r=3))) == first
    assert len(counted) == 2


@dataclass(frozen=True)
class OwnLoRA(LoRA):
    """A strategy of somebody else's, whose code may change under the same name."""


def test_strategies_that_are_not_ours_are_counted_each_time(counted: list[object]) -> None:
    assert anew(SFT(OwnLoRA(r=3))) == anew(SFT(OwnLoRA(r=3)))
    assert len(counted) == 2


def test_where_nothing_can_be_kept_it_is_counted(counted: list[object], tmp_path: Path) -> None:
    (tmp_path / "sizes").write_text("a file in the folder's place")
    assert anew(SFT(LoRA(r=3))) == anew(SFT(LoRA(r=3)))
    assert len(counted) == 2


def test_a_plan_that_was_made_before_loads_no_tokenizer_and_no_peft(tmp_path: Path) -> None:
    code = """
import sys
from posttrain import CPT, SFT, DPO, RewardModel, LoRA, Full, Pipeline
stages = [CPT(Full()), SFT(LoRA(r=4)), RewardModel(LoRA(r=4)), DPO(LoRA(r=4))]
plans = Pipeline(stages, model="tiny-random", run_dir="run").plan(shown=False)
print([(plan.tokens, plan.trainable_parameters, plan.memory_bytes) for plan in plans])
print([name for name in ("peft", "bitsandbytes", "tokenizers", "transformers.modeling_utils") if name in sys.modules])
"""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout
        for _ in range(2)
    )
    assert second.splitlines()[0] == first.splitlines()[0]
    assert second.splitlines()[1] == "[]"
