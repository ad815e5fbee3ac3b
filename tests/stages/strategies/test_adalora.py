"""AdaLoRA: the budget really moves, in TRL's trainers and in PPO, and a restart goes on with it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain import PPO, SFT, AdaLoRA, Pipeline
from posttrain.errors import RewardError, SettingError, StrategyError
from tests.stages.words import lengths, moody_of

Rows = list[dict[str, Any]]
STRATEGY = AdaLoRA(r=6, target_r=3)
LAYERS = 14  # linear layers of the tiny model


def weights_of(record: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(record.folder / "adapter" / "adapter_model.safetensors")
    return found


def ranks_of(record: Any) -> list[int]:
    """Values of E that are not zero, layer by layer."""
    return [int((value != 0).sum()) for name, value in weights_of(record).items() if "lora_E" in name]


def test_ranks_move_to_the_target(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    stage = SFT(STRATEGY, data=rows["chat"], max_steps=12, learning_rate=1e-2, batch_size=8, max_length=128)
    record = tiny([stage]).run()["sft"]
    ranks = ranks_of(record)
    assert len(ranks) == LAYERS
    assert sum(ranks) == record.metrics["rank_kept"] == 3 * LAYERS  # target_r on average
    assert len(set(ranks)) > 1  # not the same everywhere: it moved
    assert record.metrics["loss_after"] < record.metrics["loss_before"]


@pytest.mark.slow
def test_the_factors_are_kept_orthogonal(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    """TRL takes its loss from log-probabilities, so PEFT's own penalty would be lost."""

    def distance(name: str, weight: float) -> float:
        stage = SFT(AdaLoRA(r=6, target_r=3, orthogonality=weight), data=rows["chat"], max_steps=12,
                    learning_rate=1e-2, batch_size=8, max_length=128)  # fmt: skip
        values = weights_of(tiny([stage], name=name).run()["sft"])
        grams = [v @ v.T for n, v in values.items() if "lora_A" in n]
        return sum(float(torch.linalg.norm(gram - torch.eye(len(gram)))) for gram in grams)

    assert distance("with", 0.5) < distance("without", 0.0) - 0.5


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same(
    whole_and_resumed: Callable[..., Any], rows: dict[str, Rows]
) -> None:
    """Broken while ranks are pruned."""
    stage = SFT(STRATEGY, data=rows["chat"], max_steps=12, learning_rate=1e-2, batch_size=8, max_length=128)
    whole, resumed = whole_and_resumed(stage, 8)
    assert resumed.keys() == whole.keys()
    assert all(bool((resumed[name] == value).all()) for name, value in whole.items())


def test_ppo_moves_ranks_and_resumes(words: Callable[..., Pipeline], prompts: Rows) -> None:
    moody, calls = moody_of(lengths)

    stage = PPO(STRATEGY, data=prompts, reward=moody, max_steps=4, batch_size=16, max_length=32, max_new_tokens=6,
                learning_rate=1e-2, trainer_args={"stop_kl": 10.0})  # fmt: skip
    expected = words([stage], name="whole").run()["ppo"]
    assert expected.proofs["copies_of_the_base"] == 2  # the critic is a LoRA, on a base of its own
    assert sum(ranks_of(expected)) == 3 * LAYERS
    calls.update(count=0, fails_at=4)
    pipeline = words([stage], name="stopped")
    with pytest.raises(RewardError):
        pipeline.run()
    again = weights_of(pipeline.run()["ppo"])
    assert all(torch.equal(again[name], value) for name, value in weights_of(expected).items())


def test_too_few_steps_are_refused(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    with pytest.raises(StrategyError, match="5 are too few; it takes at least 10"):
        tiny([SFT(STRATEGY, data=rows["chat"], max_steps=5)]).plan()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"r": 4, "target_r": 4}, "target_r must be below r"),
        ({"warmup": 0.6, "final": 0.5}, "together they must leave steps"),
        ({"r": None}, "r must be a whole number"),
        ({"orthogonality": -1.0}, "orthogonality must be"),
    ],
)
def test_refused_when_it_is_written(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        AdaLoRA(**settings)
