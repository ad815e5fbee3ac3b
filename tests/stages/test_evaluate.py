"""Evaluate measures any model of the chain, on any rows, against another model, and makes none."""

import itertools
import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from posttrain import SFT, Classifier, Data, Evaluate, Full, LoRA, Pipeline, RewardModel
from posttrain.errors import DataError, ModelError, PipelineError, RequirementError, SettingError
from posttrain.stages.forgetting import limits
from posttrain.stages.judging import preferred
from tests.stages.words import WORDS, rivers

Rows = list[dict[str, Any]]


def chats(words: str = "river river .") -> Rows:
    return [{"prompt": f"{a} {b}", "completion": words} for a, b in itertools.product(WORDS[:7], repeat=2)]


def learned(rows: Rows) -> SFT:
    steady = {"lr_scheduler_type": "constant"}
    return SFT(Full(), data=rows, learning_rate=3e-3, max_steps=40, batch_size=16, trainer_args=steady)


def test_rows_in_any_format_are_measured_before_and_behind_a_stage(words: Callable[..., Any]) -> None:
    questions = [
        {"question": f"{a} {b}", "answer": "river river ."} for a, b in zip(WORDS, WORDS[3:], strict=False)
    ]
    texts = [{"text": f"{a} sings ."} for a in WORDS[:10]]
    run = words(
        [
            Evaluate(questions, name="first"),
            learned(chats()),
            Evaluate(questions, name="questions"),
            Evaluate(texts, name="texts"),
        ]
    ).run()
    assert run["first"].metrics["exact_match"] == 0
    assert run["questions"].metrics["exact_match"] > 0.8
    assert run["questions"].metrics["loss"] < run["first"].metrics["loss"]
    interval = run["questions"].intervals["exact_match"]
    assert interval.low <= run["questions"].metrics["exact_match"] <= interval.high
    assert run["questions"].row_counts == {
        "read": len(questions), "trained_on": 0, "held_out": len(questions), "cut": 0, "dropped": 0
    }  # fmt: skip
    kept = json.loads((run["questions"].folder / "answers.json").read_text())
    assert kept["answers"][0]["answer"].startswith("river river")
    assert run["texts"].metrics["perplexity"] == pytest.approx(np.exp(run["texts"].metrics["loss"]))
    assert run.model == run["sft"].models["policy"]  # it makes no model
    assert not run["questions"].models


def test_calls_of_tools_are_judged(tiny: Callable[..., Any]) -> None:
    tool = {"name": "boat", "parameters": {"type": "object", "properties": {"on": {"type": "string"}}}}
    rows = [
        {
            "tools": [tool],
            "messages": [
                {"role": "user", "content": a},
                {"role": "assistant", "tool_calls": [{"function": {"name": "boat", "arguments": {"on": a}}}]},
            ],
        }
        for a in WORDS[:8]
    ]
    metrics = tiny([Evaluate(rows)]).run()["evaluate"].metrics
    assert metrics["call_match"] == metrics["valid_calls"] == 0  # a random model calls nothing


def test_the_packaged_probes_are_asked_of_a_policy_alone(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROBES", 42)
    record = tiny([Evaluate()]).run()["evaluate"]
    assert set(record.metrics) == {"neutral_perplexity", "probe_accuracy"}
    assert record.intervals["probe_accuracy"].rows == 42


def test_pairs_are_ranked_by_the_reward_model_or_by_likelihood(
    tiny: Callable[..., Any], rows: dict[str, Rows]
) -> None:
    reward = RewardModel(
        LoRA(r=4), data=rows["pairs"], eval_data=rows["pairs"], max_steps=20, batch_size=8, learning_rate=1e-2
    )
    run = tiny(
        [reward, Evaluate(rows["pairs"], model="reward"), Evaluate(rows["pairs"], name="likely")]
    ).run()
    for name in ("accuracy", "margin", "loss"):
        expected = run["reward_model"].metrics[f"{name}_after"]
        assert run["evaluate"].metrics[name] == pytest.approx(expected, abs=1e-4)
    assert set(run["likely"].metrics) == {"accuracy", "margin"}


def test_a_classifier_is_measured_by_the_names_of_its_classes(words: Callable[..., Any]) -> None:
    """In the file to measure the labels come in another order."""
    rows = [{"text": f"{a} {b}", "label": "wet" if "river" in (a, b) else "dry"}
            for a, b in itertools.product(WORDS[:8], repeat=2)]  # fmt: skip
    stage = Classifier(Full(), data=rows, eval_data=rows, learning_rate=3e-3, max_steps=60, batch_size=16)
    other = sorted(rows, key=lambda row: row["label"], reverse=True)
    run = words([stage, Evaluate(other, model="classifier")]).run()
    assert run["evaluate"].metrics["accuracy"] == run["classifier"].metrics["accuracy_after"] > 0.9
    with pytest.raises(DataError, match="the class 'damp', and the model knows dry, wet"):
        words([stage, Evaluate([{"text": "a", "label": "damp"}, *rows], model="classifier")]).run()


def test_the_better_of_two_models_wins(words: Callable[..., Any], prompts: Rows) -> None:
    base = words([learned(chats("sun sun ."))], "other").run()
    stage = Evaluate(against=base.folder, judge=rivers, prompts=prompts, max_new_tokens=8)
    record = words([learned(chats()), stage]).run()["evaluate"]
    assert record.metrics["win_rate"] > 0.9
    assert record.intervals["win_rate"].low > 0.5
    assert record.intervals["win_rate"].rows == len(prompts)
    assert record.samples[0]["answer"].startswith("river")
    assert record.samples[0]["other"].startswith("sun")


def test_a_judge_scores_the_answers_of_one_model(words: Callable[..., Any], prompts: Rows) -> None:
    before, after = (
        Evaluate(judge=rivers, prompts=prompts, max_new_tokens=8, name=name) for name in ("before", "after")
    )
    run = words([before, learned(chats()), after]).run()
    assert run["before"].metrics["rivers"] < 0.1 < 0.2 < run["after"].metrics["rivers"]  # two of eight words
    assert run["after"].intervals["rivers"].rows == len(prompts)
    assert run["after"].samples[0]["answer"].startswith("river") and "other" not in run["after"].samples[0]


def test_a_model_against_itself_is_a_tie_judged_by_the_chains_reward_model(
    tiny: Callable[..., Any], rows: dict[str, Rows]
) -> None:
    asked = [{"prompt": f"the fox {i}"} for i in range(4)]
    stages = [
        RewardModel(LoRA(r=2), data=rows["pairs"], max_steps=1, batch_size=2),
        Evaluate(against="tiny-random", prompts=asked, max_new_tokens=4),
    ]
    metrics = tiny(stages).run()["evaluate"].metrics
    assert (metrics["win_rate"], metrics["tie_rate"]) == (0.5, 1.0)
    assert metrics["win_rate_similar_length"] == 0.5 and metrics["similar_length"] == 4
    with pytest.raises(PipelineError, match="needs a reward model"):
        tiny(stages[1:], name="without")


def test_a_policy_against_an_earlier_stage(tiny: Callable[..., Any], rows: dict[str, Rows]) -> None:
    """By its name; a stage that made another model makes the comparison run again, and no other name is taken for one."""
    asked = [{"prompt": f"the fox {i}"} for i in range(4)]

    def chain(rate: float) -> list[Any]:
        common: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "learning_rate": rate}
        return [
            SFT(LoRA(r=2), data=rows["chat"], **common),
            Evaluate(against="sft", judge=rivers, prompts=asked, max_new_tokens=4, name="itself"),
            SFT(LoRA(r=2), data=rows["chat"], **common, name="more"),
            Evaluate(against="sft", judge=rivers, prompts=asked, max_new_tokens=4),
        ]

    first = tiny(chain(1e-2)).run()
    assert first["itself"].metrics["tie_rate"] == 1.0
    samples = first["evaluate"].samples
    assert [one["other"] for one in samples] == [one["answer"] for one in first["itself"].samples]
    assert tiny(chain(1e-2)).run()["evaluate"].key == first["evaluate"].key
    assert tiny(chain(2e-2)).run()["evaluate"].key != first["evaluate"].key
    with pytest.raises(ModelError, match="stf"):
        tiny([*chain(1e-2)[:1], Evaluate(against="stf", judge=rivers)], name="without")


def test_length_is_controlled_by_answers_of_similar_length() -> None:
    """Two wins by far longer answers, one loss and one tie among similar ones."""
    found = preferred([2.0, 2.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [40, 30, 10, 8], [10, 10, 10, 10]).numbers
    assert found["win_rate"] == (1 + 1 + 0 + 0.5) / 4
    assert found["tie_rate"] == 0.25
    assert (found["similar_length"], found["win_rate_similar_length"]) == (2, 0.25)
    assert (found["length"], found["length_against"]) == (22, 10)
    assert (found["score"], found["score_against"]) == (1.25, 1.0)


def test_it_is_not_run_again_unless_something_changes(words: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": one, "answer": "sun ."}) + "\n" for one in WORDS[:9]))
    first = words([Evaluate(path)]).run()["evaluate"]
    assert words([Evaluate(path, require={"loss": 99.0})]).run()["evaluate"].folder == first.folder
    with pytest.raises(RequirementError, match=r"exact_match is 0 and must be at least 0\.5"):
        words([Evaluate(path, require={"exact_match": 0.5})]).run()
    path.write_text(path.read_text() + '{"question": "a dog", "answer": "sun ."}\n')
    assert words([Evaluate(path)]).run()["evaluate"].folder != first.folder


def test_tasks_of_the_harness_run_on_the_live_model(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the harness's interface as of 0.4.13."""
    asked: dict[str, Any] = {}

    def simple_evaluate(**given: Any) -> dict[str, Any]:
        asked.update(given)
        values = {
            "alias": "arc",
            "sample_len": 100,
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "acc,strict": 0.25,
            "acc_stderr,strict": "N/A",
        }
        return {"results": {"arc": values}, "n-samples": {"arc": {"original": 100, "effective": 7}}}

    modules = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface")}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    modules["lm_eval"].simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    modules["lm_eval.models.huggingface"].HFLM = lambda **given: given  # type: ignore[attr-defined]
    record = tiny([Evaluate(tasks=["arc"], limit=7)]).run()["evaluate"]
    assert record.metrics == {"arc.acc": 0.5, "arc.acc.strict": 0.25}
    interval = record.intervals["arc.acc"]
    assert (interval.low, interval.high, interval.rows) == (pytest.approx(0.304), pytest.approx(0.696), 7)
    assert asked["tasks"] == ["arc"] and asked["limit"] == 7
    assert type(asked["model"]["pretrained"]).__name__ == "LlamaForCausalLM"


def test_settings_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, words in (
        ({"tasks": "arc"}, r"must be a list such as \[\"arc_easy\"\]"),
        ({"model": "critic"}, "must be one of 'policy', 'reward'"),
        ({"model": "reward"}, "rows to measure the reward model on"),
        ({"data": "x", "model": "reward", "probes": True}, "probes can only be asked of a policy"),
        ({"prompts": [{"prompt": "a"}]}, "prompts are for a judge"),
        ({"model": "reward", "data": "x", "judge": rivers}, "judge can only be asked of a policy"),
        ({"limit": 3}, "limit is a setting of tasks"),
        ({"probes": False}, "nothing is left to measure"),
        ({"against": "tiny-random", "judge": 3}, "a reward is a function"),
        ({"max_length": 0}, "max_length must be a whole number at least 1"),
    ):
        with pytest.raises(SettingError, match=words):
            Evaluate(**given)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SettingError, match=r"pip install 'posttrain\[eval\]'"):
        Evaluate(tasks=["arc_easy"])


def test_rows_of_another_kind_are_refused_when_the_pipeline_is_built(rows: dict[str, Rows]) -> None:
    with pytest.raises(SettingError, match="rows of kind 'prompt', and a policy model is measured on"):
        Pipeline([Evaluate([{"prompt": "a"}])], model="tiny-random")


def test_explain_says_where_each_setting_comes_from(capsys: Any) -> None:
    Pipeline([Evaluate(Data([{"text": "a fox"}], limit=1))], model="tiny-random").explain()
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 rows in memory" in shown and "default of Evaluate" in shown
