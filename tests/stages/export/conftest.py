"""Models and runs to export, made once; and reading back in the tests' own process, which costs a tenth."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import LoRA, Pipeline, Run
from posttrain.pipeline.base_models import find_base
from posttrain.stages.export import proof, read_back
from tests.stages.export.made import ShakenSFT, language_model


@pytest.fixture(scope="session")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 400 tokens and four more embeddings than that."""
    return language_model(tmp_path_factory.mktemp("pocket") / "pocket-llama", vocab_size=388)


@pytest.fixture(scope="session")
def shaken(tmp_path_factory: pytest.TempPathFactory, pocket: Path) -> Callable[..., Run]:
    """shaken(strategy, ...): the finished run of such stages, made once."""
    runs: dict[str, Run] = {}

    def make(*strategies: Any, base: Path | None = None) -> Run:
        key = f"{strategies} {base}"
        if key not in runs:
            stages = [ShakenSFT(one, name=f"sft_{place}") for place, one in enumerate(strategies, 1)]
            folder = tmp_path_factory.mktemp("shaken") / "run"
            runs[key] = Pipeline(stages, model=base or pocket, run_dir=folder).run()
        return runs[key]

    return make


@pytest.fixture(scope="session")
def lora_run(shaken: Callable[..., Run]) -> Run:
    return shaken(LoRA(r=4))


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's own code, without a process for it; that it works in one, without posttrain, has tests of its own."""

    def read(task: Any) -> dict[str, Any]:
        connect = socket.socket.connect
        try:
            return read_back.main(json.loads(json.dumps(task)))
        finally:
            socket.socket.connect = connect  # type: ignore[method-assign]

    monkeypatch.setattr(proof, "_read_back", read)


def quiet(_: str) -> None:
    pass


def fingerprint(folder: Path) -> str:
    return find_base(folder).fingerprint
