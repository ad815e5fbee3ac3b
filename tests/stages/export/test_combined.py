"""A weighted sum of adapters leaves the library as any other model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import Export, LoRA, Run, combine
from posttrain.serving.bank import Bank, load_runs
from posttrain.stages.export.source import source_of
from posttrain.stages.export.work import export_model
from tests.stages.export.conftest import quiet


@pytest.fixture(scope="module")
def combined(shaken: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("combined") / "sum"
    return combine([shaken(LoRA(r=4)), shaken(LoRA(r=2))], weights=[0.5, -0.25], run_dir=folder)


@pytest.mark.parametrize("form", ["adapter", "merged", "gguf"])
def test_it_is_exported(combined: Run, same_process: None, tmp_path: Path, form: Any) -> None:
    done = export_model(Export(form), source_of(combined, combined.model), tmp_path / "out", quiet)
    assert done.facts["golden"]["read_back"]["plain"] <= 1e-4
    assert done.facts["golden"]["token_ids_equal"]


def test_it_is_served_beside_what_it_was_made_of(combined: Run, shaken: Callable[..., Run]) -> None:
    bank, notes = Bank(), list[str]()
    load_runs(bank, [combined, shaken(LoRA(r=4))], notes.append)
    try:
        served = {one.name: one for one in bank}
        assert not notes
        assert {"base", "combine", "sft_1"} <= {name.split("/")[-1] for name in served}
        assert len({one.adapter for one in served.values()}) == 3
        assert len({id(one.engine) for one in served.values()}) == 1  # one copy of the base
    finally:
        bank.close()
