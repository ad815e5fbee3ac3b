"""What the fault tests share: a small model, and prepared run folders, made once."""

from pathlib import Path

import pytest

from tests.faults.chain import Chain
from tests.faults.forked import Bench
from tests.stages.small_models import llama


@pytest.fixture(scope="session")
def words_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, words_model: Path) -> Bench:
    root: Path = tmp_path_factory.mktemp("faults")
    return Bench.make(root / "runs", Chain(words_model, root / "cache"))
