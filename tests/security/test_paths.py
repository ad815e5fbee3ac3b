"""Names that lead out of their folder, in everything that names files: refused in a sentence, and nothing is read."""

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline
from posttrain.data_formats.readers.sources import records
from posttrain.errors import CorruptArtifactError, DataFileError, ModelError, RunFolderError, SettingError
from posttrain.pipeline import Run
from posttrain.pipeline.base_models import check_base
from posttrain.pipeline.cleaning import delete, leftovers
from posttrain.pipeline.durable import MANIFEST, commit_folder, read_sealed, verify_folder, write_sealed
from posttrain.pipeline.model_folder import check_model_folder
from posttrain.report import read_report
from tests.posttrain.report.runs import RunFolder
from tests.posttrain.serving.runs import random_lora, write_run

OUTSIDE = (
    "../secret",
    "..",
    "a/../../secret",
    "/etc/passwd",
    "//etc/passwd",
    "a/b/../../../secret",
    "",
    "a\0b",
    "./../secret",
)


def change_sealed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """As somebody would who knows the format: its seal fits again."""
    value = read_sealed(path)
    change(value)
    write_sealed(path, value)


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    commit_folder(tmp_path / "folder", lambda aside: (aside / "a").write_text("a") and None)
    return tmp_path / "folder"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder(committed: Path, name: str) -> None:
    change_sealed(committed / MANIFEST, lambda one: one["files"].update({name: one["files"]["a"]}))
    with pytest.raises(CorruptArtifactError, match="which is outside its folder"):
        verify_folder(committed)


@pytest.mark.parametrize("link", ["a", "below"])
def test_a_manifest_follows_no_link(committed: Path, link: str) -> None:
    if link == "a":
        (committed / "a").unlink()
        (committed / "a").symlink_to(committed.parent / "secret")
    else:
        (committed.parent / "elsewhere").mkdir()
        shutil.copy(committed / "a", committed.parent / "elsewhere" / "a")
        (committed / "below").symlink_to(committed.parent / "elsewhere")
        change_sealed(committed / MANIFEST, lambda one: one["files"].update({"below/a": one["files"]["a"]}))
    with pytest.raises(CorruptArtifactError, match="leads out of its folder"):
        verify_folder(committed)


@pytest.mark.parametrize("files", [None, [], {"a": 1}, {"a": {}}, {"a": {"bytes": 1}}, "a"])
def test_a_manifest_of_another_shape_is_refused(committed: Path, files: Any) -> None:
    change_sealed(committed / MANIFEST, lambda one: one.update(files=files))
    with pytest.raises(CorruptArtifactError, match="is no list of files"):
        verify_folder(committed)


@pytest.mark.parametrize("name", [one for one in OUTSIDE if one])
def test_a_run_names_stages_of_its_folder(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path / "run", ["sft"])
    run.finish(run.begin("sft"), "sft")
    folder = run.write()
    change_sealed(folder / "run.json", lambda one: one["stages"][0].update(folder=name))
    for read in (Run.load, read_report):
        with pytest.raises(CorruptArtifactError, match="which is outside its folder"):
            read(folder)


@pytest.mark.parametrize("name", [f"run:{one}" for one in OUTSIDE if one])
def test_a_model_names_adapters_of_its_run(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", {"sft": random_lora(1, 2)})
    record = run["sft"].folder / "stage.json"
    change_sealed(record, lambda one: one["models"]["policy"]["adapters"][0].update(folder=name))
    with pytest.raises(CorruptArtifactError, match="which is outside its folder"):
        Run.load(run.folder)


SHARDS = (
    "../x.safetensors",
    "/x.safetensors",
    "a/x.safetensors",
    "missing.safetensors",
    "config.json",
    "",
    "..",
)


@pytest.mark.parametrize("name", SHARDS)
def test_a_list_of_weights_names_weights_of_its_folder(own_model: Path, name: str) -> None:
    index = own_model / "model.safetensors.index.json"
    shutil.copy(own_model / "model.safetensors", own_model.parent / "x.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors"}}))
    check_model_folder(own_model)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(ModelError, match="is no safetensors file of its folder"):
        check_model_folder(own_model)


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"weight_map": 5}', "{}", "[" * 100_000])
def test_a_list_of_weights_of_another_shape_is_refused(own_model: Path, text: str) -> None:
    (own_model / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="is no list of weight files"):
        check_model_folder(own_model)


@pytest.mark.parametrize("text", ["[]", "7", "{", '"a"', "[" * 100_000])
def test_a_config_of_another_shape_is_refused(own_model: Path, text: str) -> None:
    (own_model / "config.json").write_text(text)
    with pytest.raises(ModelError, match="is no JSON object"):
        check_model_folder(own_model)


MODELS = (
    "../../x", "owner/../../x", "owner/name/more", "file:///etc/passwd", "http://127.0.0.1:9/x", "owner/na me", "own\0er/x", "~root/x",
    "/etc/passwd", "owner/", "/", "owner\\x", "owner/name?x", "owner/name#x", "owner/name@main",
)  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_folder_or_an_id(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_base(name)
    assert "\n" not in str(caught.value)


DATA = (
    "../../x/y.jsonl", "owner/../../x", "http://127.0.0.1:9/x.jsonl", "hf://datasets/x", "s3://bucket/x", "file:///etc/passwd", "a\0b.jsonl",
    "/etc/passwd", "/dev/zero", "/proc/self/environ", "owner/name/../..", "|touch x", "`touch x`.jsonl", "$(touch x).jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_is_a_file_a_folder_or_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataFileError) as caught:
        list(records(name))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("filename", ["../../secret.arrow", "/etc/passwd", "..", "a/../../secret.arrow"])
def test_saved_shards_are_those_of_the_folder(tmp_path: Path, filename: str) -> None:
    (tmp_path / "secret.arrow").write_bytes(b"ARROW1")
    folder = tmp_path / "below" / "saved"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": filename}]}))
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(DataFileError):
        list(records(folder))


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".jsonl.zip", ".whl", ".7z"])
def test_archives_are_never_unpacked(tmp_path: Path, suffix: str) -> None:
    """So no name in one leads anywhere."""
    inner, path = tmp_path / "rows.jsonl", tmp_path / f"data{suffix}"
    inner.write_text('{"text": "a"}\n')
    if "tar" in suffix or suffix == ".tgz":
        with tarfile.open(path, "w:gz" if "gz" in suffix else "w") as tar:
            tar.add(inner, "../../escaped.jsonl")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, "../../escaped.jsonl")
    with pytest.raises(DataFileError, match="not read"):
        list(records(path))
    assert not list(tmp_path.parent.glob("**/escaped.jsonl"))


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", ".hidden", "a\0b", "a b", "x" * 65, "<b>", "-x", "a\n"]
)
def test_a_stage_is_named_as_a_folder_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="cannot be called"):
        Pipeline([SFT(LoRA(r=2), data=[], name=name)], model="tiny-random", run_dir=tmp_path / "run")


@pytest.mark.parametrize("where", ["stages", "checkpoints"])
def test_cleaning_deletes_nothing_behind_a_link(tmp_path: Path, where: str) -> None:
    kept = tmp_path / "kept" / ("" if where == "checkpoints" else "checkpoints")
    kept.mkdir(parents=True)
    (kept / "file").write_text("mine")
    run = RunFolder(tmp_path / "run", ["sft"])
    stage = run.begin("sft")
    run.finish(stage, "sft")
    folder = run.write()
    link = stage / "checkpoints" if where == "checkpoints" else folder / "stages" / "old"
    link.symlink_to(tmp_path / "kept")
    delete(leftovers(folder, older=True))
    assert (kept / "file").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run folder"):
        Run.load(tmp_path)
