"""The display says where a run is: in a notebook's cell, in a terminal, and in plain lines anywhere else."""

from typing import Any

import pytest

from posttrain.pipeline import progress
from posttrain.pipeline.progress import Display, Line


class Screen:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def change(self, line: Line) -> None:
        self.lines[-1] = line

    def note(self, text: str) -> None:
        self.lines.insert(-1, Line(text))

    def close(self) -> None:
        self.lines.append(Line("closed"))


def drive(display: Display) -> None:
    with display:
        display.skip_stage(0)
        display.begin_stage(1)
        display.begin_steps(2, 5)
        display.step(3, {"loss": 1.23456, "tokens_per_second": 99.6})
        display.end_stage("loss 2.000 -> 1.000")


def test_lines_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(progress, "_screen", lambda: screen)
    drive(Display(["cpt", "sft"]))
    assert screen.lines == [
        Line("stage 1 of 2  cpt: unchanged, skipped", "", 1, 1),
        Line("stage 2 of 2  sft: done", "loss 2.000 -> 1.000", 3, 5),
        Line("closed"),
    ]


def test_a_notebook_cell_is_rewritten_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    import sys
    import types

    module: Any = types.ModuleType("IPython.display")
    module.display = lambda *_, **__: Handle()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "_screen", progress._Notebook)
    drive(Display(["cpt", "sft"]))
    assert "stage 2 of 2  sft: training  3/5  loss 1.2346  100 tokens/s" in shown[-2]
    assert shown[-1].splitlines()[0] == "stage 1 of 2  cpt: unchanged, skipped  1/1  "


def test_plain_lines_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Display(["cpt", "sft"]) as display:
        display.skip_stage(0)
        display.begin_stage(1)
        display.begin_steps(2, 50)
        for step in range(3, 45):  # one in two seconds
            now += 2.0
            display.step(step, {"loss": 1.0 / step, "tokens_per_second": 99.6})
        display.end_stage("loss 2.000 -> 1.000")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "stage 1 of 2  cpt: preparing",
        "stage 1 of 2  cpt: unchanged, skipped  1/1",
        "stage 2 of 2  sft: preparing",
        "stage 2 of 2  sft: training  2/50",
        *(
            f"stage 2 of 2  sft: training  {step}/50  loss {1 / step:.4f}  100 tokens/s"
            for step in range(7, 45, 5)
        ),
        "stage 2 of 2  sft: done  44/50  loss 2.000 -> 1.000",
    ]


def test_what_is_good_to_know_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    for shown in (screen, progress._Lines()):
        monkeypatch.setattr(progress, "_screen", lambda shown=shown: shown)
        with Display(["cpt", "sft"]) as display:
            display.begin_stage(1)
            display.say("chat.jsonl: format alpaca")
    assert Line("sft: chat.jsonl: format alpaca") in screen.lines
    assert capsys.readouterr().err.splitlines()[-1] == "sft: chat.jsonl: format alpaca"


def test_a_log_hears_what_must_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    with Display(["cpt", "sft"]) as display:
        display.begin_stage(1)
        display.note("the adapter was rolled back")
    assert [record.getMessage() for record in caplog.records] == ["sft: the adapter was rolled back"]


def test_a_reader_that_went_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(progress.sys, "stderr", Gone())
    monkeypatch.setattr(progress, "_screen", progress._Lines)
    drive(Display(["cpt", "sft"]))
