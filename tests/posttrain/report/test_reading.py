"""What the report says of a run is what the run folder says."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import CorruptArtifactError, RunFolderError
from posttrain.report import read_report
from posttrain.report.answers import differences
from posttrain.report.changes import changes_of, forgetting_of
from posttrain.report.curves import POINTS, Curve, curves_of, thin
from tests.posttrain.report.runs import RunFolder, break_off, rlhf, write_steps


def test_alarms_and_lost_rows_come_first(tmp_path: Path) -> None:
    report = read_report(rlhf(tmp_path / "run"))
    assert report["state"] == "finished"
    said = [(item["level"], item["stage"], item["text"]) for item in report["attention"]]
    assert (
        "alarm",
        "ppo",
        "step 3: the KL to the reference is 40.0 nats an answer: lower learning_rate",
    ) in said
    assert ("warning", "sft0", "8 rows were dropped (5 quarantined, 3 too long)") in said


def test_curves_are_the_lines_of_the_metrics(tmp_path: Path) -> None:
    run = rlhf(tmp_path / "run", steps=50)
    report = read_report(run)
    checked = 0
    for stage in report["stages"]:
        lines = [
            json.loads(line) for line in (run / stage["folder"] / "metrics.jsonl").read_text().splitlines()
        ]
        for curve in report["curves"]:
            if curve["stage"] == stage["name"]:
                assert curve["steps"] == [line["step"] for line in lines]
                assert curve["values"] == [line[curve["metric"]] for line in lines]
                checked += 1
    assert checked == len(report["curves"]) == 2 * 6 + 4 + 16


def test_a_long_curve_keeps_what_sticks_out() -> None:
    values: list[float | None] = [1.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    few = Curve("loss", range(1, 5001), values).thinned(200)
    assert len(few.steps) <= 200
    assert (few.steps[0], few.steps[-1]) == (1, 5000)
    assert dict(zip(few.steps, few.values, strict=True))[1235] == 9.0
    assert dict(zip(few.steps, few.values, strict=True))[4322] == -9.0
    assert all(values[step - 1] == value for step, value in zip(few.steps, few.values, strict=True))


def test_what_is_no_number_is_a_gap_and_what_never_is_no_curve() -> None:
    lines = [
        {"step": 1, "loss": 1.0, "judge": None},
        {"step": 2, "loss": math.nan, "judge": None},
        {"step": 3, "loss": 2.0},
    ]
    (curve,) = curves_of(lines)
    assert (curve.metric, list(curve.steps), list(curve.values)) == ("loss", [1, 2, 3], [1.0, None, 2.0])
    assert curve.thinned(2).values[0] == 1.0


def test_all_curves_together_stay_within_the_budget() -> None:
    curves = [Curve(str(i), range(5000), [float(step * i % 7) for step in range(5000)]) for i in range(90)]
    assert POINTS / 2 < sum(len(curve.steps) for curve in thin(curves)) <= POINTS


@pytest.mark.parametrize(
    ("metrics", "interval", "verdict"),
    [
        ({"loss_before": 3.0, "loss_after": 2.0}, None, "better"),
        ({"accuracy_before": 0.9, "accuracy_after": 0.8}, None, "worse"),
        ({"accuracy_before": 0.9, "accuracy_after": 0.8}, {"low": -0.3, "high": 0.1, "rows": 20}, "noise"),
        ({"accuracy_before": 0.9, "accuracy_after": 0.895}, None, ""),  # less than a hundredth
        ({"kl_before": 0.0, "kl_after": 5.0}, None, ""),  # that is what learning looks like
        ({"length_before": 4.0, "length_after": 5.0}, None, ""),
        ({"valid_calls_before": 0.5, "valid_calls_after": 1.0}, None, "better"),
        ({"unparsable_before": 0.5, "unparsable_after": 1.0}, None, "worse"),
    ],
)
def test_better_and_worse(metrics: dict[str, float], interval: Any, verdict: str) -> None:
    name = next(iter(metrics)).removesuffix("_before")
    (change,) = changes_of(metrics, {} if interval is None else {f"{name}_change": interval})
    assert change["verdict"] == verdict
    assert change["change_interval"] == interval


def test_forgetting_is_told_apart() -> None:
    metrics = {"loss_before": 2.0, "loss_after": 1.0, "neutral_kl_base": 0.1, "probe_accuracy_before": 0.9, "probe_accuracy_after": 0.5}  # fmt: skip
    bounds = {"low": 0.05, "high": 0.2, "rows": 8}
    assert [one["name"] for one in changes_of(metrics, {})] == ["loss"]
    ability, distance = forgetting_of(metrics, {"neutral_kl_base": bounds})
    assert (ability["name"], ability["verdict"]) == ("probe_accuracy", "worse")
    assert distance == {"name": "neutral_kl_base", "value": 0.1, "interval": bounds}


def test_a_perplexity_that_surely_rose_needs_attention() -> None:
    metrics = {"neutral_perplexity_before": 20.0, "neutral_perplexity_after": 26.0}
    sure, unsure = ({"low": low, "high": 9.0, "rows": 24} for low in (3.0, -1.0))
    for bounds, verdict in ((sure, "worse"), (unsure, "noise")):
        (change,) = forgetting_of(metrics, {"neutral_perplexity_change": bounds})
        assert change["verdict"] == verdict


def test_the_words_that_are_new_are_marked() -> None:
    assert differences("The boat is red.", "The boat is green.") == [
        ["The boat is", False],
        [" green.", True],
    ]
    assert differences("你好吗", "你很好") == [["你", False], ["很", True], ["好", False]]
    assert differences("", "") == []


def test_the_same_prompt_stands_side_by_side(tmp_path: Path) -> None:
    (question,) = read_report(rlhf(tmp_path / "run"))["answers"]
    assert question["prompt"] == "Say it."
    columns = [(one["stage"], one["when"]) for one in question["answers"]]
    assert columns == [("sft0", "before"), ("sft0", "after"), ("ppo", "after")]
    assert [text for text, new in question["answers"][2]["pieces"] if new] == [" 2"]


def test_the_state_of_a_stage_that_is_not_finished(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", ["sft", "dpo"])
    stage = run.begin("sft")
    write_steps(stage, [{"step": 1, "loss": 1.0}])
    folder = run.write()
    report = read_report(folder)
    assert [one["state"] for one in report["stages"]] == ["unfinished", "waiting"]
    assert "ended without a word after step 1" in report["attention"][0]["text"]
    break_off(stage, "TrainingDivergedError", "The loss at step 2 is nan.")
    report = read_report(folder)
    assert report["state"] == "failed"
    assert report["attention"] == [{"level": "alarm", "stage": "sft", "text": "TrainingDivergedError: The loss at step 2 is nan."}]  # fmt: skip
    break_off(stage, "RunInterrupted", "Stopped by SIGTERM.")
    report = read_report(folder)
    assert report["state"] == "stopped"
    (news,) = report["attention"]  # that somebody stopped it is nothing wrong
    assert (news["level"], news["text"]) == ("note", "stopped after step 1; resume goes on")


def test_folders_that_are_none_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no run\.json"):
        read_report(tmp_path)
    run = rlhf(tmp_path / "run")
    record = next(run.glob("stages/*/stage.json"))
    record.write_text(record.read_text().replace("61.0", "6.0"))
    with pytest.raises(CorruptArtifactError, match="was changed"):
        read_report(run)


def test_secrets_in_settings_do_not_reach_the_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", ["sft"])
    stage = run.begin("sft", settings=[{"name": "trainer_args", "value": {"hub_token": "hf_abcdefghij"}, "source": "given"}])  # fmt: skip
    run.finish(
        stage, "sft", settings=[{"name": "data", "value": ["https://me:word@host/x"], "source": "given"}]
    )
    assert read_report(run.write())["stages"][0]["settings"][0]["value"] == ["https://***@host/x"]
    (stage / "stage.json").unlink()
    assert read_report(run.folder)["stages"][0]["settings"][0]["value"] == {"hub_token": "***"}
