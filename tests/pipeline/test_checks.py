"""Whatever can be known to be wrong is said when the Pipeline is built, in one sentence, without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, Full, LoRA, Pipeline, QLoRA, RewardModel, Stage
from posttrain.errors import (
    ConfigurationError,
    DataError,
    DataFileError,
    ModelError,
    PipelineError,
    PosttrainError,
    RunFolderError,
    SettingError,
    StrategyError,
)

lora = LoRA(r=4)


class NeedsReward(Stage):
    """A stand-in for PPO."""

    needs = ("policy", "reward")
    makes = "policy"

    def run(self, context: Any) -> Any:
        raise AssertionError("never run here")


def build(*stages: Any, **settings: Any) -> Pipeline:
    return Pipeline(list(stages), **settings)


CASES: list[tuple[str, Any, type[Exception], str]] = [
    ("no stages", lambda: Pipeline([]), PipelineError, "list of stages is empty"),
    ("no list", lambda: Pipeline(SFT(lora)), PipelineError, r"Pipeline\(\[SFT"),  # type: ignore[arg-type]
    ("a class", lambda: build(SFT), PipelineError, r"Write SFT\(\)"),
    ("a string", lambda: build("sft"), PipelineError, "is no stage"),
    ("two of one name", lambda: build(SFT(lora), SFT(lora)), PipelineError, "Stages 1 and 2 are both called 'sft'"),
    ("a bad name", lambda: build(SFT(lora, name="a/b")), SettingError, "cannot be called 'a/b'"),
    ("a missing role", lambda: build(SFT(lora), NeedsReward()), PipelineError, r"Stage 2 \(needs_reward\) needs a reward"),
    ("an unknown setting", lambda: SFT(lora, learning_rat=1), SettingError, "did you mean 'learning_rate'"),  # type: ignore[call-arg]
    ("an unknown strategy setting", lambda: LoRA(rank=3), SettingError, "LoRA has no setting 'rank'; did you mean 'r'"),  # type: ignore[call-arg]
    ("TRL's name for a setting", lambda: SFT(lora, num_train_epochs=3), SettingError, "did you mean 'epochs'"),  # type: ignore[call-arg]
    ("LLaMA-Factory's name", lambda: SFT(lora, cutoff_len=512), SettingError, "did you mean 'max_length'"),  # type: ignore[call-arg]
    ("a misspelt pipeline setting", lambda: build(SFT(lora), modle="embedded"), SettingError, "Pipeline has no setting 'modle'; did you mean 'model'"),
    ("no model", lambda: build(SFT(lora), model=None), ModelError, "model=None"),
    ("a Hub data set, offline", lambda: build(SFT(lora, data="tatsu-lab/alpaca")), DataFileError, "forbids to download it from the Hub"),
    ("an unknown TRL setting", lambda: SFT(lora, trainer_args={"warmup_step": 3}), SettingError, "did you mean 'warmup_steps'"),
    ("a TRL setting of ours", lambda: SFT(lora, trainer_args={"learning_rate": 1}), SettingError, "learning_rate= instead"),
    ("a fixed TRL setting", lambda: SFT(lora, trainer_args={"packing": True}), SettingError, "posttrain sets packing itself"),
    ("a second setting without its name", lambda: SFT(lora, "chat.jsonl"), SettingError, r"1 settings without a name \(strategy\)"),  # type: ignore[misc]
    ("pairs cannot be split", lambda: DPO(lora, overlong="split"), SettingError, "'error', 'drop', 'truncate'$|'truncate'\\."),
    ("a negative rate", lambda: SFT(lora, learning_rate=-1), SettingError, "learning_rate=-1"),
    ("a text for a number", lambda: SFT(lora, epochs="3"), SettingError, "epochs must be a number"),  # type: ignore[arg-type]
    ("a bool for a number", lambda: SFT(lora, batch_size=True), SettingError, "batch_size=True"),
    ("epochs and steps", lambda: SFT(lora, epochs=1, max_steps=3), SettingError, "both given"),
    ("a bad choice", lambda: SFT(lora, overlong="cut"), SettingError, "'error', 'drop', 'truncate', 'split'"),  # type: ignore[arg-type]
    ("rank 0", lambda: LoRA(r=0), SettingError, r"LoRA\(r=0\)"),
    ("the head", lambda: LoRA(target_modules=["lm_head"]), SettingError, "lm_head is the head"),
    ("a strategy class", lambda: SFT(LoRA), SettingError, r"such as LoRA\(\)"),  # type: ignore[arg-type]
    ("continue first", lambda: build(SFT(lora, handover="continue")), StrategyError, "there is none"),
    ("continue after Full", lambda: build(SFT(Full()), DPO(Full(), handover="continue")), StrategyError, r"Full\(\) leaves no adapter"),
    ("continue another shape", lambda: build(SFT(lora), DPO(LoRA(r=8), handover="continue")), StrategyError, "same strategy"),
    ("continue LoRA as QLoRA", lambda: build(SFT(lora), DPO(QLoRA(r=4), handover="continue")), StrategyError, "same strategy"),
    ("a continued reward model", lambda: RewardModel(lora, handover="continue"), SettingError, "handover must be 'merge'"),
    ("beta 0", lambda: DPO(lora, beta=0), SettingError, "beta must be a number above 0"),
    ("a missing file", lambda: build(SFT(lora, data="nowhere.jsonl")), DataFileError, "nowhere.jsonl"),
    ("a bad model name", lambda: build(SFT(lora), model="./nowhere"), ModelError, "neither a folder nor a Hub id"),
    ("a bad seed", lambda: build(SFT(lora), seed=-1), PipelineError, "seed=-1"),
    ("a bad tracker", lambda: build(SFT(lora), track="mlflow"), SettingError, "'none', 'wandb', 'tensorboard'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused_in_one_sentence(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        make()
    assert isinstance(caught.value, PosttrainError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("empty.jsonl", "", "empty"),
        ("broken.jsonl", '{"messages": [}\n', "broken.jsonl:1"),
        ("prose.json", "Once upon a time", "not JSON|JSON"),
    ],
)
def test_data_files_that_are_none(tmp_path: Path, name: str, content: str, text: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=text):
        build(SFT(lora, data=tmp_path / name))


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config\.json"):
        build(SFT(lora), model=tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(ModelError, match="a reward model or classifier"):
        build(SFT(lora), model=tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="a pickle, which can run code"):
        build(SFT(lora), model=tmp_path)
    weights = tmp_path / "model.safetensors"
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    whole = len(header).to_bytes(8, "little") + header + b"1234"
    weights.write_bytes(whole)
    with pytest.raises(ModelError, match=r"has no tokenizer \(none of tokenizer\.json"):
        build(SFT(lora), model=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    build(SFT(lora), model=tmp_path)
    for damage in (whole[:-1], whole + b"5", b"", b"\x00" * 100, b"\xff" * 100, b"junk" * 10):
        weights.write_bytes(damage)
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or incomplete"):
            build(SFT(lora), model=tmp_path)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        build(SFT(lora), model=tmp_path)


def test_folders_that_are_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(RunFolderError, match="not empty"):
        build(SFT(lora), run_dir=tmp_path)
    with pytest.raises(RunFolderError, match="is a file"):
        build(SFT(lora), run_dir=tmp_path / "thesis.doc")
    with pytest.raises(RunFolderError, match="is no run folder"):
        Pipeline.load(tmp_path)


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        build(SFT(lora), model="tiny-random", run_dir=tmp_path / "file" / "run").run()


def test_a_list_of_targets_is_a_tuple() -> None:
    assert LoRA(target_modules=["q_proj"]) == LoRA(target_modules=("q_proj",))
    assert hash(LoRA(target_modules=["q_proj"])) == hash(LoRA(target_modules=("q_proj",)))


def test_every_configuration_error_can_be_caught_as_value_error() -> None:
    assert issubclass(ConfigurationError, ValueError)


def test_building_explaining_nothing_heavy() -> None:
    """Building and checking a Pipeline, trainer_args and data included, imports no torch."""
    code = (
        "import sys\n"
        "from posttrain import *\n"
        "lora = LoRA(r=4)\n"
        "Pipeline([CPT(lora), SFT(lora, trainer_args={'warmup_steps': 2}), RewardModel(lora), DPO(lora)])\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_survive_copies() -> None:
    import copy
    import dataclasses
    import pickle

    stage = CPT(LoRA(r=3, target_modules=("q_proj",)), max_steps=2)
    assert copy.deepcopy(stage) == stage == pickle.loads(pickle.dumps(stage))
    assert dataclasses.replace(stage, max_steps=3).max_steps == 3
