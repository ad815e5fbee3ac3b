"""Every optimizer step stands in metrics.jsonl exactly once."""

import json
from pathlib import Path

import pytest

from posttrain.pipeline.events import StageEvents, read_metrics
from posttrain.pipeline.progress import Display
from posttrain.pipeline.tracking import NoTracker


def events(folder: Path) -> StageEvents:
    return StageEvents(folder, Display(["sft"]), NoTracker())


def test_a_resumed_stage_writes_no_step_twice(tmp_path: Path) -> None:
    first = events(tmp_path)
    first.begin_steps(0, 4)
    for step in (1, 2, 3):
        first.step(step, {"loss": 3.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut by a kill
    again = events(tmp_path)
    again.begin_steps(2, 4)  # the checkpoint was of step 2
    again.step(3, {"loss": 1.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 3.0), (2, 1.5), (3, 1.0),
    ]  # fmt: skip


def test_lines_that_were_lost_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Display(["sft"]) as display:
        events = StageEvents(tmp_path, display, NoTracker())
        events.begin_steps(0, 4)
        for step in (1, 2):
            events.step(step, {"loss": 1.0})
        content = bytearray((tmp_path / "metrics.jsonl").read_bytes())
        content[2:4] = b"\xff\x00"  # no text, let alone JSON
        (tmp_path / "metrics.jsonl").write_bytes(content)
        StageEvents(tmp_path, display, NoTracker()).begin_steps(2, 4)
    assert "metrics.jsonl was damaged: it has 1 of the 2 lines up to step 2" in caplog.text
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2]


def test_a_nan_is_null_so_that_the_file_stays_json(tmp_path: Path) -> None:
    events(tmp_path).step(1, {"loss": float("nan"), "learning_rate": 0.5})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 1, "loss": None, "learning_rate": 0.5}
