"""A pickle that is planted in a file is never run: it is refused in one sentence, or nobody reads the file."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import Data
from posttrain.data_formats.formats.registry import OURS
from posttrain.data_formats.inspection import inspect
from posttrain.data_formats.loading import Reading
from posttrain.data_formats.readers.sources import records
from posttrain.data_formats.tokens.table import TokenTable
from posttrain.errors import CorruptArtifactError, DataError, DataFileError, ModelError
from posttrain.pipeline import ModelRef, Run
from posttrain.pipeline.adapters import read_adapter, weights_of
from posttrain.pipeline.model_folder import check_model_folder
from posttrain.serving.bank import Bank, load_runs
from posttrain.stages.export.adapter import write_adapter
from posttrain.stages.export.source import read_source
from tests.posttrain.serving.runs import random_lora, write_run
from tests.security.planted import as_npy, as_pickle, as_torch_zip, plant


def test_the_planted_files_do_run_code_where_they_are_trusted(tmp_path: Path) -> None:
    """Or every test below would pass for nothing."""
    import numpy
    import torch

    loads: dict[str, Callable[[Path], Any]] = {
        "a.pkl": lambda path: pickle.loads(path.read_bytes()),
        "a.pt": lambda path: torch.load(path, weights_only=False),
        "a.npy": lambda path: numpy.load(path, allow_pickle=True),
    }
    for (name, load), write in zip(loads.items(), (as_pickle, as_torch_zip, as_npy), strict=True):
        write(tmp_path / name, tmp_path / f"{name}.ran")
        load(tmp_path / name)
        assert (tmp_path / f"{name}.ran").exists(), name


WEIGHTS = (
    "pytorch_model.bin",
    "model.pt",
    "consolidated.00.pth",
    "model.ckpt",
    "training_args.bin",
    "model.joblib",
)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_base_of_pickles_is_refused(own_model: Path, marker: Path, name: str) -> None:
    (own_model / "model.safetensors").unlink()
    plant(own_model, marker, (name,))
    with pytest.raises(ModelError, match=r"has no \*\.safetensors") as caught:
        check_model_folder(own_model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [as_pickle, as_torch_zip, as_npy])
def test_a_pickle_called_safetensors_is_refused(
    own_model: Path, marker: Path, write: Callable[[Path, Path], None]
) -> None:
    (own_model / "model.safetensors").unlink()
    write(own_model / "model.safetensors", marker)
    with pytest.raises(ModelError, match="header"):
        check_model_folder(own_model)


def test_pickles_beside_the_weights_are_not_read(own_model: Path, marker: Path) -> None:
    """All kinds at once."""
    plant(own_model, marker)
    ref = ModelRef.of_base(own_model)
    model, tokenizer = ref.load()
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"])
def test_an_adapter_of_pickles_is_refused(tmp_path: Path, marker: Path, tiny_folder: Path, name: str) -> None:
    def change(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        as_torch_zip(folder / name, marker)

    run = write_run(tmp_path / "run", {"sft": random_lora(1, 2)}, change=change)
    with pytest.raises(ModelError, match=rf"{name} is a pickle, which can run code; convert it"):
        run.model.load_model()
    with pytest.raises(ModelError, match="is a pickle"):
        read_adapter(None, run.model.adapters[-1].folder)
    bank = Bank()
    try:
        with pytest.raises(ModelError, match="is a pickle"):
            load_runs(bank, [run], print)
    finally:
        bank.close()
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="is a pickle"):
        write_adapter(read_source(str(run.folder)), tmp_path / "out")


def with_pickles(marker: Path) -> Callable[[Path], None]:
    return lambda folder: plant(folder, marker)


@pytest.fixture
def planted_run(tmp_path: Path, marker: Path) -> Run:
    """A run whose adapter has every kind of pickle beside its weights, in its manifest, and so has the run folder."""
    run = write_run(tmp_path / "run", {"sft": random_lora(1, 2)}, change=with_pickles(marker))
    for folder in (run.folder, run["sft"].folder):
        plant(folder, marker)
    return Run.load(run.folder)


def test_pickles_in_a_run_are_not_read(planted_run: Run) -> None:
    planted_run["sft"].verify()
    planted_run.model.load_model()


def test_a_served_run_reads_none(planted_run: Run) -> None:
    bank = Bank()
    try:
        load_runs(bank, [planted_run], print)
        assert [one.name for one in bank] == ["base", "sft"]
    finally:
        bank.close()


def test_an_export_reads_and_takes_none(planted_run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_adapter(read_source(str(planted_run.folder)), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_report_reads_none(planted_run: Run) -> None:
    from posttrain.pipeline.run_list import read_state
    from posttrain.report import read_report

    assert read_report(planted_run.folder)["stages"][0]["state"] == "finished"
    assert read_state(planted_run.folder).finished == ("sft",)


def test_a_reward_checkpoint_of_pickles_is_refused(tmp_path: Path, marker: Path) -> None:
    from posttrain.stages.online.loading import _read_reward_adapter

    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    as_torch_zip(tmp_path / "adapter_model.bin", marker)
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle"):
        _read_reward_adapter(tmp_path)
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle"):
        weights_of(tmp_path)


@pytest.mark.parametrize("write", [as_pickle, as_torch_zip, as_npy])
def test_a_token_table_is_numbers_whatever_is_in_it(
    tmp_path: Path, marker: Path, write: Callable[[Path, Path], None]
) -> None:
    TokenTable.of({"input_ids": [[1, 2, 3, 4]], "labels": [[1, 2, 3, 4]]}).save(tmp_path)
    write(tmp_path / "input_ids.values", marker)
    content = (tmp_path / "input_ids.values").read_bytes()
    (tmp_path / "input_ids.values").write_bytes(content.ljust(-(-len(content) // 8) * 8, b"\0"))
    assert all(isinstance(token, int) for token in TokenTable.load(tmp_path).row(0)["input_ids"])
    index = tmp_path / "table.json"
    index.write_text(index.read_text().replace("int32", "object"))
    with pytest.raises(
        CorruptArtifactError, match="which no table has"
    ):  # numpy would follow its bytes as addresses
        TokenTable.load(tmp_path)


@pytest.mark.parametrize("offsets", [[0, 400], [4, 4], [0, 3], [-8, 4], [3, 1]])
def test_a_token_table_has_its_rows_inside(tmp_path: Path, offsets: list[int]) -> None:
    import numpy

    TokenTable.of({"input_ids": [[1, 2, 3, 4]]}).save(tmp_path)
    numpy.array(offsets, dtype=numpy.int64).tofile(tmp_path / "input_ids.offsets")
    with pytest.raises(CorruptArtifactError, match="outside of its file"):
        TokenTable.load(tmp_path).to_dataset("x")


@pytest.mark.parametrize(
    "suffix", [".pkl", ".pickle", ".pt", ".bin", ".npy", ".npz", ".joblib", ".ckpt", ".h5"]
)
@pytest.mark.parametrize("given", ["file", "folder"])
def test_data_is_not_read_out_of_pickles(tmp_path: Path, marker: Path, suffix: str, given: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (as_npy if suffix == ".npy" else as_pickle)(folder / f"rows{suffix}", marker)
    with pytest.raises(DataFileError) as caught:
        list(records(folder if given == "folder" else folder / f"rows{suffix}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["data.jsonl", "data.json", "data.csv", "data.parquet", "data.arrow", "data.jsonl.gz"]
)
def test_a_pickle_called_data_is_no_data(tmp_path: Path, marker: Path, name: str) -> None:
    as_pickle(tmp_path / name, marker)
    with pytest.raises(DataError):
        inspect(Data(tmp_path / name), "conversation")


def test_what_helpers_leave_for_each_other_lies_in_a_folder_of_ones_own(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pickled; what stood there before is gone, and nobody else can put anything there."""
    from posttrain.data_formats import processes

    aside, rows = tmp_path / "parts", tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    (aside / "0").mkdir(parents=True)
    as_pickle(aside / processes.WORK, marker)
    as_pickle(aside / "0" / processes.RESULT, marker)
    monkeypatch.setattr(processes, "packed_tokenizer", lambda tokenizer: b"")
    reading = Reading(Data(rows), "text", OURS[[one.name for one in OURS].index("text")])
    job = processes._job(reading, None, [rows], aside)
    assert job is not None
    assert [path.name for path in aside.iterdir()] == ["next.json"]
    assert aside.stat().st_mode & 0o077 == 0
