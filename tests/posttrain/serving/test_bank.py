"""Which names the models of runs get, and which models cannot share the base."""

from pathlib import Path

import pytest

from posttrain.errors import CorruptArtifactError, SettingError
from posttrain.pipeline import ModelRef, Run
from posttrain.serving.bank import Bank, find_adapter, load_runs, offers
from posttrain.serving.engine import Limits
from tests.posttrain.serving.runs import random_lora, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    style = write_run(folder / "style", {"sft": random_lora(1, 2), "dpo": random_lora(2, 2)})
    return [style, write_run(folder / "agent", {"sft": random_lora(3, 2), "ppo": random_lora(4, 2)})]


def names(runs: list[Run]) -> dict[str, tuple[str, ...]]:
    return {one.name: one.aliases for one in offers(runs)}


def test_one_run_names_its_stages(runs: list[Run]) -> None:
    assert names(runs[:1]) == {"base": (), "sft": ("style/sft",), "dpo": ("style/dpo", "style")}


def test_several_runs_name_theirs_by_run(runs: list[Run]) -> None:
    assert names(runs) == {
        "base": (), "style/sft": (), "style/dpo": ("dpo", "style"), "agent/sft": (), "agent/ppo": ("ppo", "agent"),
    }  # fmt: skip


def test_two_runs_of_one_name_are_refused(runs: list[Run], tmp_path: Path) -> None:
    other = write_run(tmp_path / "style", {"sft": random_lora(5, 2)})
    with pytest.raises(SettingError, match="Two of the runs are called 'style'"):
        offers([runs[0], other])


def as_dora(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))


def test_what_needs_weights_of_its_own_is_left_out_or_loaded_whole(runs: list[Run], tmp_path: Path) -> None:
    dora = write_run(tmp_path / "dora", {"sft": random_lora(5, 2)}, change=as_dora)
    notes: list[str] = []
    bank = Bank(Limits(rows=2))
    try:
        load_runs(bank, [dora], notes.append)
        assert [one.name for one in bank] == ["base"]
        assert len(notes) == 1
        assert notes[0].startswith("sft is left out: ")
        assert notes[0].endswith(
            "more than its two factors (DoRA or alike). It can be served with weights of its own only: --whole."
        )
    finally:
        bank.close()
    bank = Bank(Limits(rows=2), whole=True)
    try:
        bank.add("base", runs[0].start)
        onto = runs[0]["sft"].models["policy"].adapters[0]
        ref = ModelRef(
            runs[0].start.base,
            runs[0].start.base_fingerprint,
            (type(onto)(onto.folder, onto.digest, onto.base_fingerprint, "int8"),),
        )
        served = bank.add("quantised", ref)
        assert served.adapter is None
        assert len({one.engine for one in bank}) == 2
    finally:
        bank.close()


def test_one_model_under_two_names_is_loaded_once(runs: list[Run]) -> None:
    bank = Bank(Limits(rows=2))
    try:
        bank.add("base", runs[0].start)
        first, second = (bank.add(name, runs[0].model) for name in ("a", "b"))
        assert (first.engine, first.adapter) == (second.engine, second.adapter)
        with pytest.raises(SettingError, match="a model called 'a' already"):
            bank.add("a", runs[0].start)
        assert bank.remove("a")
        assert bank.find("a") is None
        assert bank.find("b") is not None
        assert not bank.remove("a")
        with pytest.raises(SettingError, match="a whole model"):
            bank.remove("base")
    finally:
        bank.close()


def test_a_changed_file_is_not_served(runs: list[Run], tmp_path: Path) -> None:
    broken = write_run(tmp_path / "broken", {"sft": random_lora(6, 2)})
    weights = broken["sft"].folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    bank = Bank(Limits(rows=2))
    try:
        with pytest.raises(CorruptArtifactError):
            load_runs(bank, [broken], print)
    finally:
        bank.close()


def test_an_adapter_is_found_by_the_folder_of_its_run_stage_or_own(runs: list[Run]) -> None:
    run = runs[0]
    sft = run["sft"]
    allowed = [run.folder.parent]
    assert find_adapter(str(run.folder), allowed) == run.model
    for path in (sft.folder, sft.folder / "adapter"):
        assert find_adapter(str(path), allowed) == sft.models["policy"]
