"""What every row of the suite may use: a place for markers that must stay empty, and a copy of the tiny model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.pipeline.base_models import find_base


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that planted code would make. That it was never made is asserted when the test is over."""
    path = tmp_path / "CODE_RAN"
    yield path
    assert not path.exists(), "code in a file was run"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return find_base("tiny-random").folder


@pytest.fixture
def own_model(tmp_path: Path, tiny_folder: Path) -> Path:
    """A copy of the tiny model that may be changed; its weights are a link."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        elif path.name != "manifest.json":
            shutil.copy(path, folder / path.name)
    return folder
