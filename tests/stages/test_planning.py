"""The plan's counts are the run's counts."""

from collections.abc import Callable
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, Full, LoRA, Pipeline, QLoRA, RewardModel
from posttrain.stages.planning import steps_of

Rows = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize("strategy", [LoRA(r=3), LoRA(r=2, target_modules=("q_proj",)), QLoRA(r=3), Full()])
@pytest.mark.parametrize("kind", [CPT, SFT, RewardModel, DPO])
def test_trainable_parameters_to_the_unit(
    tiny: Callable[..., Pipeline], rows: Rows, kind: Any, strategy: Any
) -> None:
    from posttrain.pipeline.model_ref import ModelRef, with_reward_head

    names = {"text": "text", "conversation": "chat", "preference": "pairs"}
    stage = kind(strategy, data=rows[names[kind.kind]], batch_size=4)
    plan = tiny([stage]).plan()[0]
    assert plan is not None
    model = ModelRef.of_base("tiny-random").load_model()
    model.requires_grad_(False)
    if kind is RewardModel:
        model = with_reward_head(model)
    model = strategy.wrap(strategy.prepare_base(model), stage.task, 0)
    assert plan.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 7}, 7),
        ({"epochs": 1, "batch_size": 4}, 8),  # 30 rows: 8 batches
        ({"epochs": 2, "batch_size": 4, "gradient_accumulation": 3}, 6),  # 8 batches: 3 steps an epoch
        ({"epochs": 0.5, "batch_size": 4}, 4),
    ],
)
def test_steps_are_the_trainers_steps(
    tiny: Callable[..., Pipeline], rows: Rows, settings: dict[str, Any], expected: int
) -> None:
    data, held_out = rows["chat"][:30], rows["chat"][30:]
    stage = SFT(LoRA(r=2), data=data, eval_data=held_out, **settings)
    assert steps_of(stage, 30) == expected
    assert tiny([stage]).run()["sft"].metrics["steps"] == expected


def test_explain_says_where_every_value_comes_from(
    tiny: Callable[..., Pipeline],
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stage = SFT(LoRA(r=2), data=rows["chat"], batch_size=4, trainer_args={"warmup_steps": 3})
    tiny([stage, DPO(Full())]).explain()
    printed = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "learning_rate 0.0002 default of SFT with LoRA" in printed
    assert "batch_size 4 given" in printed
    assert "data 32 rows in memory given" in printed
    assert "warmup_steps 3 trainer_args" in printed
    assert "learning_rate 1e-06 default of DPO with Full" in printed
    assert any(line.startswith("bf16 ") and "this machine" in line for line in printed)
