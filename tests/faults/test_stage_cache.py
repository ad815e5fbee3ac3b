"""What runs again after a change: twelve changes at four places, and exactly the stages that they could touch."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, LoRA, Pipeline, RewardModel, StageContext, StageResult
from posttrain.pipeline import AdapterRef
from posttrain.pipeline.digests import digest_of
from posttrain.pipeline.durable import commit_folder
from posttrain.pipeline.model_ref import adapter_digest
from posttrain.stages.training_stage import TrainingStage
from tests.stages.words import WORDS

STAGES = {"cpt": CPT, "sft": SFT, "reward_model": RewardModel, "dpo": DPO}
NAMES = tuple(STAGES)
RAN: list[str] = []
# The stages that stand on what a stage makes; nobody here needs the reward model.
AFTER = {"cpt": NAMES, "sft": NAMES[1:], "reward_model": ("reward_model",), "dpo": ("dpo",)}


def pretend(stage: TrainingStage, context: StageContext) -> StageResult:
    """Instead of training: an "adapter" that says what it was made from."""
    RAN.append(context.name)
    source, target = context.inputs["policy"], context.folder / "adapter"
    content = digest_of([stage.identity(), source.fingerprint, context.seed])

    def fill(aside: Path) -> None:
        (aside / "adapter_model.safetensors").write_text(content)
        (aside / "adapter_config.json").write_text('{"peft_type": "LORA"}')

    commit_folder(target, fill)
    adapter = AdapterRef(target, adapter_digest(target), source.fingerprint)
    return StageResult({stage.makes: source.with_adapter(adapter, stage.head)}, metrics={"loss_after": 1.0})


class Setup:
    """Everything that a result can depend on, in one folder, and what is changed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
        self.of_pipeline: dict[str, Any] = {}
        self.names = list(NAMES)

    def rows(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def write_rows(self) -> None:
        pairs = [(f"{a} {b}", a) for a in WORDS[:4] for b in WORDS[4:9]]
        as_rows: dict[str, Callable[[str, str], dict[str, str]]] = {
            "cpt": lambda text, _: {"text": text},
            "sft": lambda text, answer: {"prompt": text, "completion": answer},
        }
        for name in NAMES:
            row = as_rows.get(name, lambda text, one: {"prompt": text, "chosen": one, "rejected": "dog"})
            self.rows(name).write_text("".join(json.dumps(row(*pair)) + "\n" for pair in pairs))

    def run(self) -> list[str]:
        RAN.clear()
        stages = [
            STAGES[name](**{"strategy": LoRA(r=2), "data": self.rows(name), "max_steps": 2, "max_length": 32}
                         | self.settings[name])
            for name in self.names
        ]  # fmt: skip
        Pipeline(stages, model=self.folder / "model", run_dir=self.folder / "run", **self.of_pipeline).run()
        return list(RAN)


def edited(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def data_bytes(setup: Setup, name: str) -> None:
    edited(setup.rows(name), lambda text: text.replace("river", "boat", 1))


def row_order(setup: Setup, name: str) -> None:
    edited(setup.rows(name), lambda text: "".join(reversed(text.splitlines(keepends=True))))


def setting(**values: Any) -> Callable[[Setup, str], None]:
    return lambda setup, name: setup.settings[name].update(values)


def moved_file(setup: Setup, name: str) -> None:
    """Or touched, or called otherwise: the content counts."""
    setup.settings[name]["data"] = setup.rows(name).rename(setup.folder / "elsewhere.jsonl")


def left_out(setup: Setup, name: str) -> None:
    setup.names.remove(name)


def base_weights(setup: Setup, name: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = setup.folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[NAMES.index(name)]].view(-1)[0] += 1  # another of the tensors at each place
    assert all(torch.isfinite(one).all() for one in tensors.values())
    save_file(tensors, path, metadata={"format": "pt"})


def tokenizer(setup: Setup, name: str) -> None:
    at = WORDS[NAMES.index(name)]
    edited(setup.folder / "model" / "tokenizer.json", lambda text: text.replace(f'"{at}"', f'"{at}ish"'))


def template(setup: Setup, name: str) -> None:
    path = setup.folder / "model" / "chat_template.jinja"
    edited(path, lambda text: text + "{# " + name + " #}")


PER_STAGE: dict[str, Callable[[Setup, str], None]] = {
    "data bytes": data_bytes,
    "row order": row_order,
    "strategy": setting(strategy=LoRA(r=4)),
    "learning rate": setting(learning_rate=3e-5),
    "length of rows": setting(max_length=31),
    "an argument of the trainer": setting(trainer_args={"weight_decay": 0.01}),
}
OF_ALL: dict[str, Callable[[Setup, str], None]] = {
    "base weights": base_weights, "tokenizer": tokenizer, "template": template,
    "seed": lambda setup, name: setup.of_pipeline.update(seed=1 + NAMES.index(name)),
}  # fmt: skip
OF_NONE: dict[str, Callable[[Setup, str], None]] = {
    "where the file stands": moved_file,
    "what is only logged or judged": setting(require={"loss": 99.0}),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words_model: Path) -> Path:
    setup = Setup(tmp_path_factory.mktemp("finished"))
    shutil.copytree(words_model, setup.folder / "model")
    setup.write_rows()
    return setup.folder


@pytest.fixture
def setup(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """Nothing left to do in it."""
    monkeypatch.setattr(TrainingStage, "run", pretend)
    monkeypatch.setattr(TrainingStage, "plan", lambda *_: None)
    shutil.copytree(finished, tmp_path / "work")
    setup = Setup(tmp_path / "work")
    assert setup.run() == list(NAMES)
    assert setup.run() == []
    return setup


def cases() -> Sequence[Any]:
    table = [(what, name, change, AFTER[name]) for what, change in PER_STAGE.items() for name in NAMES]
    table += [(what, name, change, NAMES) for what, change in OF_ALL.items() for name in NAMES]
    table += [(what, name, change, ()) for what, change in OF_NONE.items() for name in NAMES]
    table += [
        ("left out", name, left_out, tuple(one for one in AFTER[name] if one != name)) for name in NAMES
    ]
    quick = [
        ("data bytes", "sft"),
        ("left out", "reward_model"),
        ("template", "cpt"),
        ("where the file stands", "dpo"),
    ]
    return [
        pytest.param(change, name, again, id=f"{what}, {name}",
                     marks=[] if (what, name) in quick else [pytest.mark.slow])
        for what, name, change, again in table
    ]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "again"), cases())
def test_exactly_what_a_change_touches_runs_again(
    setup: Setup, change: Callable[[Setup, str], None], name: str, again: Sequence[str]
) -> None:
    change(setup, name)
    assert setup.run() == list(again)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "transformers", "trl", "peft"])
def test_another_version_of_a_library_that_computes(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    from posttrain.pipeline import pipeline

    real = pipeline._version
    monkeypatch.setattr(pipeline, "_version", lambda name: "99" if name == library else real(name))
    assert setup.run() == list(NAMES)


@pytest.mark.slow
def test_another_way_to_read_rows(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.stages.token_tables._code_digest", lambda: "another")
    assert setup.run() == list(NAMES)
