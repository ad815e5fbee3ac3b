"""Python code that comes with a model runs only where the one switch is on, and then the report says so."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline
from posttrain.data_formats.processes import HELPER
from posttrain.data_formats.readers.sources import records
from posttrain.errors import DataFileError, ModelError, PosttrainError, SettingError
from posttrain.pipeline import ModelRef
from posttrain.pipeline.base_models import find_base, load_tokenizer
from posttrain.pipeline.remote_code import SWITCH, trusts_remote_code
from posttrain.report import read_report
from posttrain.ui.commands import answer
from tests.pipeline.test_run import Write
from tests.posttrain.report.runs import RunFolder

CODE = """
import os
os.system("touch 'MARKER'")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "of_its_own"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
PARTS = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}


@pytest.fixture
def with_code(own_model: Path, marker: Path) -> Callable[..., Path]:
    """The tiny model with code beside it. known: of a type that transformers has itself."""

    def make(known: bool, tokenizer: bool = False) -> Path:
        (own_model / "code.py").write_text(CODE.replace("MARKER", str(marker)))
        change(
            own_model / "config.json", {"auto_map": PARTS} | ({} if known else {"model_type": "of_its_own"})
        )
        if tokenizer:
            own = {"auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}}
            change(own_model / "tokenizer_config.json", own | {"tokenizer_class": "Tokenizer"})
        return own_model

    return make


def change(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_of_a_model_that_transformers_knows_is_not_run(with_code: Callable[..., Path]) -> None:
    model, _ = ModelRef.of_base(with_code(known=True)).load()
    assert type(model).__module__.startswith("transformers.")


def test_a_model_that_needs_its_code_is_refused(with_code: Callable[..., Path]) -> None:
    folder = with_code(known=False)
    with pytest.raises(ModelError, match=rf"code of its own, which is not run; .* {SWITCH}=1") as caught:
        ModelRef.of_base(folder).load_model()
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="code of its own, which is not run"):
        Pipeline([SFT(LoRA(r=2))], model=folder).plan(shown=False)


def test_a_tokenizer_that_needs_its_code_is_refused(with_code: Callable[..., Path]) -> None:
    folder = with_code(known=True, tokenizer=True)
    try:
        tokenizer = load_tokenizer(folder)
    except ModelError as error:
        assert SWITCH in str(error)
    else:
        assert type(tokenizer).__module__.startswith("transformers.")


def test_code_for_generation_is_not_run(own_model: Path, marker: Path) -> None:
    (own_model / "custom_generate").mkdir()
    (own_model / "custom_generate" / "generate.py").write_text(CODE.replace("MARKER", str(marker)))
    model, tokenizer = ModelRef.of_base(own_model).load()
    model.generate(**tokenizer("Hi", return_tensors="pt"), max_new_tokens=1, do_sample=False)


KERNELS: dict[str, Any] = {
    "attention": {"_attn_implementation": "someone/kernel"},
    "attention, by its other name": {"attn_implementation": "someone/kernel@main:flash"},
    "attention, for each part": {"attn_implementation": {"text_config": "someone/kernel"}},
    "attention of a part": {"text_config": {"_attn_implementation": "paged|someone/kernel"}},
    "attention of a part of a list": {"parts": [{"_attn_implementation": "someone/kernel"}]},
    "experts": {"_experts_implementation": "someone/kernel"},
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_of_the_hub_is_not_asked_for(own_model: Path, name: str) -> None:
    """transformers refuses most, but fetches and runs those of one organisation unasked, where `kernels` is installed."""
    change(own_model / "config.json", KERNELS[name])
    with pytest.raises(ModelError, match="a kernel of the Hub, which is code and would be run") as caught:
        find_base(own_model)
    assert "\n" not in str(caught.value)


def test_an_attention_of_transformers_own_is_taken(own_model: Path) -> None:
    change(own_model / "config.json", {"_attn_implementation": "eager", "_name_or_path": "someone/model"})
    ModelRef.of_base(own_model).load_model()


def test_a_script_of_a_data_set_is_not_run(tmp_path: Path, marker: Path) -> None:
    """As data sets of the Hub once had them: `name/name.py`."""
    import datasets

    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    (folder / "rows.py").write_text(CODE.replace("MARKER", str(marker)))
    with pytest.raises(DataFileError, match=r"also holds 'rows\.py', which is not read"):
        list(records(folder))
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset(str(folder / "rows.py"))


def test_a_module_in_a_run_folder_is_not_imported(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is read in its own folder, too, where such names would be found first."""
    run = Pipeline([Write("a", name="s1")], model="tiny-random", run_dir=tmp_path / "run").run()
    for name in ("json", "torch", "posttrain", "sitecustomize", "safetensors"):
        (run.folder / f"{name}.py").write_text(CODE.replace("MARKER", str(marker)))
    done = subprocess.run(
        ["posttrain", "show", "."], cwd=run.folder, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_commands_of_the_page_import_nothing_from_where_it_was_started(tmp_path: Path, marker: Path) -> None:
    for name in ("json", "pickle", "typer", "posttrain"):
        (tmp_path / f"{name}.py").write_text(CODE.replace("MARKER", str(marker)))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    found = asyncio.run(answer(["inspect", "--json", "a.jsonl"], 60, tmp_path))
    assert found["rows"] == 1
    helper = [sys.executable, "-P", "-c", HELPER]
    done = subprocess.run(helper, cwd=tmp_path, input=pickle.dumps(sys.path), capture_output=True, timeout=60)
    assert b"EOFError" in done.stderr  # it read the path, and waits for its job


def test_the_switch_lets_it_run(
    with_code: Callable[..., Path], marker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or the tests above would pass with code that cannot run."""
    folder = with_code(known=False)
    off = find_base(folder).fingerprint
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ModelRef.of_base(folder).load_model()
    assert marker.exists()
    marker.unlink()
    on = find_base(folder).fingerprint
    assert on != off  # the code is part of the model now
    (folder / "code.py").write_text("")
    assert find_base(folder).fingerprint not in (on, off)


@pytest.mark.parametrize("given", ["", "0"])
def test_it_is_off(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(SWITCH, given)
    assert not trusts_remote_code()


@pytest.mark.parametrize("given", ["yes", "true", "2", " 1", "on"])
def test_it_is_1_and_nothing_else(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(SWITCH, given)
    with pytest.raises(SettingError, match="it is 1 for on"):
        trusts_remote_code()


@pytest.mark.parametrize(
    "given",
    [
        {"trainer_args": {"trust_remote_code": True}},
        {"trainer_args": {"model_init_kwargs": {"trust_remote_code": True}}},
        {"trust_remote_code": True},
    ],
)
def test_no_setting_turns_it_on(given: dict[str, Any]) -> None:
    with pytest.raises(PosttrainError):
        Pipeline([SFT(LoRA(r=2), **given)], model="tiny-random")


def test_the_report_says_when_it_was_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = f"Python code that came with the model was allowed to run ({SWITCH}=1)"
    for given in ("", "1"):
        monkeypatch.setenv(SWITCH, given)
        run = Pipeline([Write("a", name="s1")], model="tiny-random", run_dir=tmp_path / f"run{given}").run()
        texts = [item["text"] for item in read_report(run.folder)["attention"]]
        assert (said in texts) == (given == "1")
        assert (said in (run.folder / "report.html").read_text("utf-8")) == (given == "1")


def test_runs_from_before_the_switch_are_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", ["sft"])
    run.finish(run.begin("sft"), "sft")
    assert read_report(run.write())["stages"][0]["remote_code"] is False
