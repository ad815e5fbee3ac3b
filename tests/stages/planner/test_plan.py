"""The plan's counts are the run's counts."""

from collections.abc import Callable
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, Full, LoRA, Pipeline, QLoRA, RewardModel
from posttrain.errors import SettingError

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


def test_values_that_trl_refuses_are_named_before_anything_is_loaded(
    tiny: Callable[..., Pipeline], rows: Rows
) -> None:
    for given, named in (
        ({"optim": "adamm"}, r"Stage sft: trainer_args=\{'optim': 'adamm'\} is refused by TRL"),
        ({"warmup_steps": 2, "lr_scheduler_type": "cosin"}, r"trainer_args=\{'lr_scheduler_type': 'cosin'\}"),
        ({"weight_decay": 0.1, "warmup_steps": -1}, r"trainer_args=\{'warmup_steps': -1\}"),
    ):
        pipeline = tiny([SFT(LoRA(r=2), data=rows["chat"], max_steps=1, trainer_args=given)])
        for method in (pipeline.plan, pipeline.run):
            with pytest.raises(SettingError, match=named):
                method()
        assert not (pipeline.run_dir / "stages").exists()


def test_rows_longer_than_the_models_positions_are_refused(tiny: Callable[..., Pipeline]) -> None:
    long = [{"text": "river " * 3000 + str(i)} for i in range(20)]
    with pytest.raises(SettingError, match=r"rows of 300\d tokens in, and the model has 2048 positions"):
        tiny([CPT(LoRA(r=2), data=long, max_length=4096)]).plan()
    plan = tiny([CPT(LoRA(r=2), data=[{"text": f"short {i}"} for i in range(20)], max_length=4096)]).plan()[0]
    assert plan is not None and plan.rows_read == 20  # no row is that long: nothing to refuse


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
    assert stage.steps(30) == expected
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
