"""What auto(...) chooses is what the planner says fits, and what a user gave is left as it is."""

from collections.abc import Callable
from typing import Any

import pytest

from posttrain import SFT, Full, LoRA, Pipeline, QLoRA, auto
from posttrain.errors import ModelError, NotEnoughMemoryError, SettingError
from posttrain.stages.planner.auto import choices, find_shape, read_memory

Rows = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("text", "gibibytes"), [("8GB", 8), ("8 GB", 8), ("24GiB", 24), (" 7.5gb ", 7.5), ("80GIB", 80)]
)
def test_memory_is_read_as_on_the_label_of_a_card(text: str, gibibytes: float) -> None:
    assert read_memory(text) == gibibytes * 2**30


@pytest.mark.parametrize("text", ["8 gigs", "8", "", "GB", "-8GB", "0GB", "8e9", "8 GB card", 8, None])
def test_what_is_no_memory_is_refused(text: Any) -> None:
    with pytest.raises(SettingError, match=r"memory must be a number with its unit"):
        auto(text)


@pytest.mark.parametrize(
    ("memory", "model", "strategy"),
    [
        ("8GB", "7B", QLoRA(r=4, alpha=16, dropout=0.05)),
        pytest.param("12GB", "13B", QLoRA(r=8, alpha=32, dropout=0.05), marks=pytest.mark.slow),
        pytest.param("24GB", "30B", QLoRA(r=16, alpha=32, dropout=0.05), marks=pytest.mark.slow),
        ("48GB", "1B", Full()),
        ("24GB", "7B", LoRA()),
    ],
)
def test_the_presets_of_the_field_hold_with_a_4_bit_base(memory: str, model: str, strategy: Any) -> None:
    rows = choices(SFT(), model, read_memory(memory))
    (chosen,) = [row for row in rows if row.chosen]
    assert chosen.stage.strategy == strategy
    assert chosen.bytes <= 0.9 * read_memory(memory)
    assert chosen.stage.batch_size * chosen.stage.gradient_accumulation == 8
    before = rows[: rows.index(chosen)]
    assert not any(row.fits for row in before)
    assert all(row.bytes > 0.8 * read_memory(memory) for row in before)


def test_a_32b_model_fits_a_24_gb_card() -> None:
    chosen = [row for row in choices(SFT(), "32B", read_memory("24GB")) if row.chosen]
    assert len(chosen) == 1 and isinstance(chosen[0].stage.strategy, QLoRA)


def test_what_cannot_fit_is_said_in_one_sentence(tmp_path: Any, tiny: Callable[..., Pipeline]) -> None:
    with pytest.raises(
        NotEnoughMemoryError, match=r"^Stage sft: nothing fits into 0\.01 GB; the least, QLoRA\(r=2"
    ):
        tiny([SFT(auto("0.01GB"))])


def test_the_pipeline_puts_the_choice_in_its_place(
    tiny: Callable[..., Pipeline], rows: Rows, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny([SFT(auto("8GB"), data=rows["chat"], max_steps=2)])
    (stage,) = pipeline.stages
    assert isinstance(stage, SFT) and stage.strategy == Full()
    assert stage.resolved_learning_rate == SFT.full_learning_rate
    sources = {setting.name: setting.source for setting in stage.settings()}
    assert sources["strategy"].startswith("auto(8GB): every parameter can be trained, 0.")
    assert sources["batch_size"] == "default of SFT" and sources["gradient_checkpointing"].startswith(
        "auto(8GB)"
    )
    monkeypatch.setenv("COLUMNS", "200")
    pipeline.explain()
    assert "auto(8GB)" in capsys.readouterr().out
    assert pipeline.run()["sft"].metrics["steps"] == 2
    same = SFT(Full(), data=rows["chat"], max_steps=2, trainer_args={"gradient_checkpointing": False})
    assert stage.identity() == same.identity()  # written out by hand, the run is found finished


def test_what_was_given_is_kept(tmp_path: Any) -> None:
    given = SFT(auto("8GB"), batch_size=16, trainer_args={"gradient_checkpointing": True, "warmup_steps": 3})
    rows = choices(given, "1B", read_memory("8GB"))
    assert {(row.stage.batch_size, row.stage.gradient_accumulation) for row in rows} == {(16, 1)}
    assert all(row.recompute for row in rows)
    assert all(row.stage.trainer_args["warmup_steps"] == 3 for row in rows)


def test_a_model_is_found_without_its_weights(tmp_path: Any) -> None:
    assert find_shape("7b") == "7B"
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_shape(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert find_shape(str(tmp_path)) == tmp_path.resolve()
    for unknown in ("9B", "nobody/nothing", "a b c"):
        with pytest.raises(ModelError, match=r"no folder, not in the local Hub cache, and no known size"):
            find_shape(unknown)
