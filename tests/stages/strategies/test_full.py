"""Training the base itself: layer-wise learning rates, parts of the model, and unfreezing from the top."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain import SFT, Freeze, Full, GradualUnfreeze, Pipeline
from posttrain.errors import SettingError, StrategyError
from posttrain.pipeline import ModelRef
from posttrain.stages.strategies import Schedule

Rows = list[dict[str, Any]]
LAYERS, RATE = 2, 1e-3  # of the tiny model; of the tests


def moved(run: Any) -> dict[str, float]:
    """Largest change of each parameter."""
    before, after = (dict(ref.load()[0].named_parameters()) for ref in (run.start, run.model))
    return {name: float((before[name] - after[name]).detach().abs().max()) for name in before}


def one_step(tiny: Callable[..., Pipeline], rows: dict[str, Rows], strategy: Any) -> dict[str, float]:
    """AdamW's first step moves a parameter by its learning rate, whatever its gradient."""
    stage = SFT(strategy, data=rows["chat"], max_steps=1, learning_rate=RATE, batch_size=8, max_length=128)
    return moved(tiny([stage]).run())


def test_each_layer_learns_at_its_own_rate(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    found = one_step(tiny, rows, Full(llrd=0.5))
    expected = {"model.layers.0.": 0.5, "model.layers.1.": 1.0, "model.norm.": 1.0}
    for prefix, factor in expected.items():
        inside = [value for name, value in found.items() if name.startswith(prefix)]
        assert inside
        assert all(value == pytest.approx(RATE * factor, rel=2e-2) for value in inside)
    embeddings = found[
        "model.embed_tokens.weight"
    ]  # one matrix with the head: the rate of the embeddings, once
    assert "lm_head.weight" not in found
    assert embeddings == pytest.approx(RATE * 0.25, rel=2e-2)


def test_the_part_that_freeze_trains_decays_too(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    found = one_step(tiny, rows, Freeze(layers=2, llrd=0.5))
    assert found["model.embed_tokens.weight"] == 0
    assert found["model.layers.0.mlp.down_proj.weight"] == pytest.approx(RATE * 0.5, rel=2e-2)
    assert found["model.layers.1.mlp.down_proj.weight"] == pytest.approx(RATE, rel=2e-2)


def test_only_named_modules_move(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    found = one_step(tiny, rows, Freeze(modules=["mlp", "layers.1.self_attn.q_proj"]))
    trained = {name for name, value in found.items() if value > 0}
    assert trained == {
        name for name in found if ".mlp." in name or name == "model.layers.1.self_attn.q_proj.weight"
    }


def test_layers_join_from_the_top_with_fresh_optimizer_state() -> None:
    """The loop of a Trainer in small: who moves, and how many steps the optimizer has counted for it."""
    model = ModelRef.of_base("tiny-random").load_model()
    strategy = GradualUnfreeze(every_steps=2)
    strategy.wrap(model, "policy", 0)
    hooks = strategy.hooks(model, Schedule(total=6, per_epoch=6.0))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0
    )
    hooks.begin(0)
    parts = {
        "model.norm.weight": 0, "model.layers.1.mlp.up_proj.weight": 0, "model.layers.0.mlp.up_proj.weight": 2,
        "model.embed_tokens.weight": 4,
    }  # fmt: skip
    named = dict(model.named_parameters())
    ids = torch.randint(5, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    for step in range(1, 7):
        before = {name: named[name].detach().clone() for name in parts}
        model(input_ids=ids, labels=ids).loss.backward()
        hooks.before_step()
        optimizer.step()
        hooks.after_step(step)
        optimizer.zero_grad()
        for name, begins in parts.items():
            change = float((named[name].detach() - before[name]).abs().max())
            assert (change > 0) == (step > begins), (name, step)
            if step == begins + 1:  # the first step of fresh moments is the learning rate
                assert change == pytest.approx(RATE, rel=1e-2)
    assert {name: int(optimizer.state[named[name]]["step"]) for name in parts} == {
        name: 6 - begins for name, begins in parts.items()
    }
    assert hooks.numbers()["unfrozen"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("strategy", "layers", "expected"),
    [
        (GradualUnfreeze(), 4, {5: 0, 4: 0, 3: 12, 2: 25, 1: 38, 0: 50}),
        (GradualUnfreeze(first=2, layers=3), 4, {5: 0, 4: 0, 3: 0, 2: 50}),
        (GradualUnfreeze(first=0, every_steps=3), 2, {3: 0, 2: 3, 1: 6, 0: 9}),
        (GradualUnfreeze(every_epochs=0.5), 2, {3: 0, 2: 0, 1: 20, 0: 40}),
    ],
)
def test_when_what_is_unfrozen(strategy: GradualUnfreeze, layers: int, expected: dict[int, int]) -> None:
    assert strategy.unfreezing(Schedule(total=100, per_epoch=40.0), layers) == expected


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(one, marks=pytest.mark.slow) for one in (GradualUnfreeze(every_steps=3), Full(llrd=0.9))],
    ids=["gradual", "llrd"],
)
def test_stopped_and_resumed_it_is_the_same(
    whole_and_resumed: Callable[..., Any], rows: dict[str, Rows], strategy: Any
) -> None:
    """Broken after one layer was unfrozen, before the embeddings are."""
    stage = SFT(strategy, data=rows["chat"], max_steps=8, learning_rate=RATE, batch_size=8, max_length=128)
    whole, resumed = whole_and_resumed(stage, 5)
    assert resumed.keys() == whole.keys()
    assert all(bool((resumed[name] == value).all()) for name, value in whole.items())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Full(llrd=1.5), r"llrd must be a number above 0 and at most 1"),
        (lambda: Full(llrd=0.0), r"llrd must be a number above 0 and at most 1"),
        (lambda: Freeze(modules="mlp"), r"modules must be a list of names"),
        (lambda: Freeze(modules=[]), r"modules must be a list of names"),
        (lambda: Freeze(layers=2, modules=["mlp"]), r"layers must be left out where modules are named"),
        (lambda: GradualUnfreeze(every_steps=2, every_epochs=0.5), "both given; leave one out"),
        (lambda: GradualUnfreeze(first=2, layers=2), r"nothing would be unfrozen; take Freeze\(layers=2\)"),
        (lambda: GradualUnfreeze(every_steps=0), "every_steps must be a whole number at least 1"),
    ],
)
def test_refused_when_it_is_written(make: Any, text: str) -> None:
    with pytest.raises(SettingError, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (
            GradualUnfreeze(every_steps=9),
            "would be unfrozen after step 18, and the stage has 8 optimizer steps",
        ),
        (GradualUnfreeze(layers=9), r"GradualUnfreeze\(layers=9\): the model has 2 layers"),
        (Freeze(modules=["mlp", "mpl"]), r"nothing called 'mpl'; it has .*mlp.*self_attn"),
    ],
)
def test_refused_in_the_plan(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], strategy: Any, text: str
) -> None:
    with pytest.raises(StrategyError, match=text) as caught:
        tiny([SFT(strategy, data=rows["chat"], max_steps=8)]).plan()
    assert "\n" not in str(caught.value)
