"""A model of twenty words, small enough that a whole run of reinforcement learning takes seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stages.small_models import bert, llama, t5
from tests.stages.words import WORDS


@pytest.fixture(scope="session")
def words_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama with 25 tokens: an untrained policy says any word with the same probability."""
    return llama(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def prompts() -> list[dict[str, Any]]:
    return [{"prompt": f"{one} {other}"} for one in WORDS[:8] for other in WORDS[8:12]]


@pytest.fixture
def words(tmp_path: Path, words_model: Path) -> Callable[..., Any]:
    """A Pipeline on the model of thirty words in a folder of the test's own."""
    from posttrain import Pipeline

    def build(stages: list[Any], name: str = "run", **settings: Any) -> Pipeline:
        return Pipeline(stages, model=words_model, run_dir=tmp_path / name, **settings)

    return build


@pytest.fixture(scope="session")
def bert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def t5_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def on(tmp_path: Path) -> Callable[..., Any]:
    """A Pipeline on a model in a folder of the test's own."""
    from posttrain import Pipeline

    def build(model: Path | str, stages: list[Any], name: str = "run", **settings: Any) -> Pipeline:
        return Pipeline(stages, model=model, run_dir=tmp_path / name, **settings)

    return build


@pytest.fixture
def whole_and_resumed(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any, int], tuple[dict[str, Any], dict[str, Any]]]:
    """The tensors that a stage leaves after a run in one piece, and after one that broke at a step and went on."""
    from safetensors.torch import load_file

    from posttrain.pipeline.events import StageEvents

    def both(stage: Any, breaks_at: int) -> tuple[dict[str, Any], dict[str, Any]]:
        real = StageEvents.step

        def fails(self: Any, step: int, metrics: Any) -> None:
            if step == breaks_at:
                raise ConnectionError("the disk is gone")
            real(self, step, metrics)

        def left(run: Any) -> dict[str, Any]:
            found: dict[str, Any] = load_file(next(run[stage.title].folder.glob("*/*model.safetensors")))
            return found

        whole = left(tiny([stage], name="whole").run())
        pipeline = tiny([stage], name="stopped")
        with monkeypatch.context() as patch:
            patch.setattr(StageEvents, "step", fails)
            with pytest.raises(ConnectionError):
                pipeline.run()
        assert list(pipeline.run_dir.rglob("checkpoints/*"))  # or it would have begun anew
        return whole, left(pipeline.run())

    return both
