"""A YAML recipe builds what Python builds, and whatever is wrong in it is one sentence with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain import (
    DPO,
    GRPO,
    PPO,
    SFT,
    AdaLoRA,
    Data,
    Full,
    LoRA,
    Pipeline,
    RewardModelRef,
    accuracy_reward,
    auto,
)
from posttrain.errors import PipelineError, PosttrainError, RecipeError, SettingError
from posttrain.recipe_files import build, changed, pipeline_of_script, read_yaml
from posttrain.recipe_files.forms import Form, forms_of, kinds_in_recipes
from posttrain.recipe_files.schema import schema
from posttrain.recipes.quickstart import quickstart
from posttrain.recipes.rlhf import rlhf
from posttrain.recipes.sft_dpo import sft_dpo

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PACKAGED = {"quickstart": quickstart, "rlhf": rlhf, "sft_dpo": sft_dpo}


def of(text: str, *changes: str) -> Pipeline:
    return build(changed(read_yaml(text, "r.yaml"), changes))


def stages(text: str) -> tuple[Any, ...]:
    return of(text).stages


def test_every_packaged_yaml_has_its_script() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_recipe_is_the_same_in_yaml_and_in_python(name: str) -> None:
    read, written = build(read_yaml(RECIPES / f"{name}.yaml", name)), PACKAGED[name]()
    assert read.stages == written.stages
    assert (read.model, read.run_dir, read.seed, read.track) == (
        written.model, written.run_dir, written.seed, written.track,
    )  # fmt: skip


def test_every_form_of_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names alone, names with settings, data in its three forms, functions, reward models, lists, texts and numbers."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_text('{"prompt": "a", "completion": "b"}\n')
    Path("p.jsonl").write_text('{"prompt": "a"}\n')
    Path("my_rewards.py").write_text(
        "def short(prompts, completions, **_):\n    return [0.0] * len(prompts)\n"
    )
    found = of(
        """
        model: tiny-random
        stages:
          - SFT: {strategy: Full, data: a.jsonl, learning_rate: 1e-5, epochs: 2}
          - SFT:
              name: second
              strategy: {LoRA: {r: 4, target_modules: [q_proj, v_proj], variant: null}}
              data: [a.jsonl, {source: b.jsonl, system: 'yes'}]
              eval_data: {source: [a.jsonl, b.jsonl], weights: [1, 3]}
              trainer_args: {warmup_steps: 2, lr_scheduler_type: cosine}
          - GRPO:
              data: p.jsonl
              reward: [my_rewards:short]
              reward_weights: [0.5]
              num_generations: 4
        """
    )
    import my_rewards  # type: ignore[import-not-found]

    assert found.stages == (
        SFT(Full(), data="a.jsonl", learning_rate=1e-5, epochs=2),
        SFT(
            LoRA(r=4, target_modules=("q_proj", "v_proj")),
            name="second",
            data=["a.jsonl", Data("b.jsonl", system="yes")],
            eval_data=Data(["a.jsonl", "b.jsonl"], weights=[1, 3]),
            trainer_args={"warmup_steps": 2, "lr_scheduler_type": "cosine"},
        ),
        GRPO(data="p.jsonl", reward=[my_rewards.short], reward_weights=[0.5], num_generations=4),
    )


def test_the_strategy_at_the_top_is_of_stages_that_name_none() -> None:
    text = "model: tiny-random\nstrategy: {LoRA: {r: 4}}\nstages:\n  - SFT\n  - DPO: {strategy: {LoRA: {r: 2}}}\n  - SFT: {name: x}\n"
    assert stages(text) == (SFT(LoRA(r=4)), DPO(LoRA(r=2)), SFT(LoRA(r=4), name="x"))


def test_reward_models_and_auto_by_name(tmp_path: Path) -> None:
    from posttrain.recipe_files.build import read
    from posttrain.stages import Strategy

    node = read_yaml("{auto: {memory: 24GB}}", "r.yaml")
    assert read(node, Strategy, "SFT.strategy") == auto("24GB")
    node = read_yaml("{RewardModelRef: {path: runs/x}}", "r.yaml")
    assert read(node, Form.of(PPO).settings["judge"].hint, "PPO.judge") == RewardModelRef("runs/x")


def test_a_packaged_reward_is_known_by_its_name() -> None:
    found = of("stages:\n  - GRPO:\n      reward: accuracy_reward\n      num_generations: 2\n")
    assert found.stages[0].reward is accuracy_reward  # type: ignore[attr-defined]


def test_changes_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no demo has left a run of that name
    text = (RECIPES / "quickstart.yaml").read_text()
    found = of(text, "model=tiny-random", "seed=7", "sft.max_steps=3", "ppo.strategy.Full.llrd=0.9",
               "cpt.trainer_args.warmup_steps=1", "reward_model.name=judge", "strategy.LoRA.alpha=8")  # fmt: skip
    cpt, sft, reward_model, ppo = found.stages
    assert (found.model, found.seed) == ("tiny-random", 7)
    assert isinstance(sft, SFT) and (sft.max_steps, sft.strategy) == (3, LoRA(r=16, alpha=8))
    assert isinstance(ppo, PPO) and ppo.strategy == Full(llrd=0.9)
    assert reward_model.title == "judge" and dict(cpt.trainer_args) == {"warmup_steps": 1}  # type: ignore[attr-defined]


WRONG = [
    ("stages:\n  - SFT:\n      trainer_args:\n        max_grad_norm: 1\n        warmup_stps: 1\n", SettingError, "r.yaml:5 SFT(trainer_args=...) has no setting 'warmup_stps'"),
    ("stages:\n  - SFT:\n      lr: 1e-3\n", SettingError, "r.yaml:3 SFT has no setting 'lr'; did you mean 'learning_rate'?"),
    ("stages:\n  - SFT:\n      epohcs: 1\n", SettingError, "r.yaml:3 SFT has no setting 'epohcs'; did you mean 'epochs'?"),
    ("stages: [SFT]\nmodle: x\n", SettingError, "r.yaml:2 Pipeline has no setting 'modle'; did you mean 'model'?"),
    ("stages:\n  - SFT\n  - DPOO\n", RecipeError, "r.yaml:3 stages: there is no 'DPOO'; did you mean DPO?"),
    ("stages:\n  - sft: {}\n", RecipeError, "r.yaml:2 stages: there is no 'sft'; did you mean SFT?"),
    ("stages:\n  - SFT:\n      strategy:\n        LORA: {r: 4}\n", RecipeError, "r.yaml:4 SFT.strategy: there is no 'LORA'; did you mean LoRA?"),
    ("stages:\n  - SFT:\n      strategy:\n        LoRA:\n          rank: 4\n", SettingError, "r.yaml:5 LoRA has no setting 'rank'; did you mean 'r'?"),
    ("stages:\n  - SFT: {}\n    DPO: {}\n", RecipeError, "r.yaml:2 stages must be one name with its settings below it"),
    ("stages:\n  - SFT:\n      epochs: three\n", RecipeError, 'r.yaml:3 SFT.epochs must be a number or null, and this is "three".'),
    ("stages:\n  - SFT:\n      max_steps: true\n", RecipeError, "r.yaml:3 SFT.max_steps must be a whole number or null, and this is true."),
    ("stages:\n  - SFT:\n      overlong: dorp\n", RecipeError, "r.yaml:3 SFT.overlong must be 'error' or 'drop' or"),
    ("stages:\n  - SFT:\n      batch_size: 2\n      learning_rate: 7\n", SettingError, "r.yaml:4 SFT(learning_rate=7): learning_rate must be"),
    ("stages:\n  - SFT:\n      data: {limit: 3}\n", RecipeError, "r.yaml:3 Data needs 'source'."),
    ("stages:\n  - SFT\n  - SFT\n", PipelineError, "r.yaml:1 Stages 1 and 2 are both called 'sft'"),
    ("stages:\n  - SFT\n  - PPO\n", PipelineError, "r.yaml:3 Stage 2 (ppo) needs a reward model"),
    ("stages:\n  - GRPO:\n      reward: polite\n", RecipeError, "r.yaml:3 GRPO.reward: a function is accuracy_reward or function_call_reward, or your own as 'module:name'"),
    ("stages:\n  - GRPO:\n      reward: os:system\n", RecipeError, "r.yaml:3 GRPO.reward: there is no file "),
    ("stages:\n  - GRPO:\n      reward: ../x:y\n", RecipeError, "r.yaml:3 GRPO.reward: a function is accuracy_reward or function_call_reward, or your own as 'module:name'"),
    ("strategy: LoRA\nstages:\n  - SFT: {strategy: Full}\n", RecipeError, "r.yaml:1 strategy: every stage names its own"),
    ("strategy: LORA\nstages: [SFT]\n", RecipeError, "r.yaml:1 SFT.strategy: there is no 'LORA'; did you mean LoRA?"),
    ("seed: 0\n", RecipeError, "r.yaml:1 Pipeline needs 'stages'."),
    ("- SFT\n", RecipeError, "r.yaml:1 a recipe is a mapping with 'stages:', and this is a list."),
    ("", RecipeError, "r.yaml is empty"),
    ("stages: [SFT]\n---\nstages: [DPO]\n", RecipeError, "r.yaml:2 a second document begins"),
    ("stages: [SFT]\nseed: 1\nseed: 2\n", RecipeError, "r.yaml:3 seed: this key is here twice."),
    ("stages:\n\t- SFT\n", RecipeError, "r.yaml:2 is no YAML: found character"),
    ("stages: [SFT\nseed: ]: 3\n", RecipeError, "r.yaml:2 is no YAML"),
    ("a: &a [x, x]\nstages: [*a]\n", RecipeError, "r.yaml:1 uses an anchor"),
    ("stages: !!python/object/apply:os.system ['touch bad']\n", RecipeError, "r.yaml:1 has the tag tag:yaml.org,2002:python/object/apply:os.system"),
    ("stages: " + "[" * 30 + "]" * 30, RecipeError, "r.yaml:1 is nested more than 20 deep."),
    ("? [a]\n: b\n", RecipeError, "r.yaml:1 has a key that is no text."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "sentence"), WRONG)
def test_what_is_wrong_is_said_with_its_line(text: str, kind: type[PosttrainError], sentence: str) -> None:
    with pytest.raises(PosttrainError) as caught:
        of(text)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sft", "--set sft: write it as path=value"),
        (
            "stf.epochs=3",
            "--set stf.epochs: no stage is called 'stf'; there are cpt, sft, reward_model, ppo.",
        ),
        ("sft.epocs=3", "--set sft.epocs: SFT has no setting 'epocs'; did you mean 'epochs'?"),
        ("sft.epochs=x", '--set sft.epochs: SFT.epochs must be a number or null, and this is "x".'),
        ("sft.max_steps.x=1", "--set sft.max_steps.x: 'x' leads nowhere: there is a value at r.yaml:"),
        ("model=[", "--set model:1 is no YAML"),
    ],
)
def test_a_wrong_change_is_said_with_its_path(change: str, sentence: str) -> None:
    with pytest.raises(PosttrainError) as caught:
        of((RECIPES / "quickstart.yaml").read_text(), change)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "stages:\n  - SFT:\n      trainer_args: {hub_token: abcdef}\n",
        "stages:\n  - SFT:\n      data: hf_abcdefghijklmnopqrstuvwx\n",
        "stages: [SFT]\napi_key: [sk-abcdefghijklmnopqrst]\n",
    ],
)
def test_secrets_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:\d .*looks like a secret") as caught:
        of(text)
    assert "abcdef" not in str(caught.value)
    with pytest.raises(RecipeError, match="looks like a secret") as caught:
        of("stages: [SFT]\n", "sft.trainer_args.hub_token=abcdef")
    assert "abcdef" not in str(caught.value)


def test_what_is_no_secret_passes() -> None:
    text = "[data/task-specific-instructions.jsonl, disk-of-my-own-machine-1, '<|pad|>', hf_hub]\n"
    assert len(read_yaml(text, "").plain()) == 4
    named = {"pad_token": "<|pad|>", "max_new_tokens": "64", "eos_token": "</s>"}
    assert read_yaml(json.dumps(named), "").plain() == named


def test_yaml_is_read_as_its_present_version_has_it() -> None:
    read = read_yaml(
        "[1e-3, 1., .5, -2, 0, no, on, yes, 2024-01-01, '1', null, ~, true, 1_000, 0x10]", ""
    ).plain()
    assert read == [
        0.001,
        1.0,
        0.5,
        -2,
        0,
        "no",
        "on",
        "yes",
        "2024-01-01",
        "1",
        None,
        None,
        True,
        "1_000",
        "0x10",
    ]


def test_a_script_gives_its_pipeline_without_training(tmp_path: Path) -> None:
    found = pipeline_of_script(
        RECIPES / "quickstart.py", ["--model", "tiny-random", "--run-dir", str(tmp_path / "r")]
    )
    assert found.stages == quickstart().stages and found.model == "tiny-random"
    plain = tmp_path / "plain.py"
    plain.write_text("raise SystemExit('was run')\n")
    with pytest.raises(RecipeError, match="no functions that return a Pipeline"):
        pipeline_of_script(plain, [])


# The schema


def validator() -> Any:
    import jsonschema

    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(found)))


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_valid_by_the_schema(name: str) -> None:
    assert not list(validator().iter_errors(read_yaml(RECIPES / f"{name}.yaml", name).plain()))


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    """All but what a schema cannot know: how stages follow each other, ranges of numbers, files."""
    found = validator()
    known = [
        text
        for text, _, sentence in WRONG
        if " stages must" in sentence
        or "there is no '" in sentence
        or "has no setting" in sentence
        or " must be " in sentence
        if "(" not in sentence  # not ranges, nor what trainer_args may hold
    ]
    refused = [bool(list(found.iter_errors(read_yaml(text, "").plain()))) for text in known]
    assert refused == [True] * len(refused) and len(refused) >= 9


def test_every_setting_is_in_the_schema_with_its_sentence() -> None:
    found = schema()
    count = 0
    for kind in kinds_in_recipes():
        written = found["$defs"][kind.__name__]["anyOf"][-1]["properties"]
        assert written.keys() == forms_of(kind).keys()
        for name, form in forms_of(kind).items():
            properties = written[name]["properties"]
            assert properties.keys() == form.settings.keys(), name
            assert all(one["description"] for one in properties.values()), name
            assert written[name]["description"], name
            count += len(properties)
    assert count > 250
    for properties in (found["properties"], found["$defs"]["Data"]["properties"]):
        assert all(one["description"] for one in properties.values())
    lora = found["$defs"]["Strategy"]["anyOf"][-1]["properties"]["LoRA"]["properties"]
    assert lora["r"] == {"type": "integer", "description": "rank, usually 4 to 64.", "default": 16}
    assert lora["bias"]["enum"] == ["none", "all", "lora_only"]


def test_a_strategy_of_each_kind_is_named_as_in_python() -> None:
    text = "model: tiny-random\nstages:\n  - SFT:\n      strategy:\n        AdaLoRA:\n          r: 6\n          target_r: 3\n"
    assert stages(text) == (SFT(AdaLoRA(r=6, target_r=3)),)
