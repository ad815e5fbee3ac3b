"""The report is written while a run goes, costs little, and is never in its way."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain import Pipeline
from posttrain.pipeline import watching
from posttrain.report import read_report
from tests.pipeline.test_run import Write
from tests.posttrain.report.runs import rlhf


def pipeline(folder: Path, *stages: Write) -> Pipeline:
    return Pipeline(stages, model="tiny-random", run_dir=folder / "run")


def test_the_report_stands_in_the_run_folder(tmp_path: Path) -> None:
    run = pipeline(tmp_path, Write("a", name="s1"), Write("b", name="s2")).run()
    assert "s2" in (run.folder / "report.html").read_text("utf-8")
    report = read_report(run.folder)
    assert report["state"] == "finished"
    first = report["stages"][0]
    assert first["plan"]["memory_bytes"] == 1 and first["measured"]["disk_bytes"] > 0
    assert first["measured"]["peak_memory_bytes"] >= 0
    assert first["versions"]["torch"] and first["settings"] == [
        {"type": "Setting", "name": name, "value": value, "source": "given"} for name, value in (("text", "a"), ("fails", False))
    ]  # fmt: skip
    (loss, memory) = (curve for curve in report["curves"] if curve["stage"] == "s1")
    assert (loss["values"], memory["metric"]) == ([1.0], "memory_bytes")


def test_it_is_written_while_a_stage_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str]]] = []

    def look(folder: Path) -> None:
        report = read_report(folder)
        seen.append((report["state"], [stage["state"] for stage in report["stages"]]))

    monkeypatch.setattr(watching, "_watchers", [look])
    monkeypatch.setattr(watching, "_SECONDS", 0.0)
    monkeypatch.setattr(watching, "_SHARE", 1e9)
    pipeline(tmp_path, Write("a", name="s1"), Write("b", name="s2")).run()
    assert seen == [
        ("running", ["running", "waiting"]), ("running", ["finished", "waiting"]),
        ("running", ["finished", "running"]), ("finished", ["finished", "finished"]),
    ]  # fmt: skip


def test_watchers_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def slow(folder: Path) -> None:
        now[0] += 2.0
        calls.append(now[0])

    monkeypatch.setattr(watching, "_watchers", [slow])
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    watch = watching.Watch(Path(), lambda text: None)
    for _ in range(3000):
        now[0] += 0.5
        watch.changed()
    assert len(calls) == 8  # of 1,500 seconds: after 15, then every 200
    assert sum(2.0 for _ in calls) / now[0] < 0.012


def test_a_report_that_fails_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(folder: Path) -> None:
        raise OSError("no pen")

    monkeypatch.setattr(watching, "_watchers", [fails])
    with caplog.at_level(logging.WARNING):
        run = pipeline(tmp_path, Write("a", name="s1"), Write("b", name="s2")).run()
    assert list(run.stages) == ["s1", "s2"]
    said = [line.message for line in caplog.records if "report" in line.message]
    assert said == ["s1: the report was not written (OSError: no pen); training goes on"]


def test_a_run_that_broke_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a defect"):
        pipeline(tmp_path, Write("a", name="s1"), Write("b", name="s2", fails=True)).run()
    report = read_report(tmp_path / "run")
    assert [stage["state"] for stage in report["stages"]] == ["finished", "failed"]
    assert report["attention"] == [{"level": "alarm", "stage": "s2", "text": "RuntimeError: a defect"}]
    assert "RuntimeError: a defect" in (tmp_path / "run" / "report.html").read_text("utf-8")
    pipeline(tmp_path, Write("a", name="s1"), Write("b", name="s2")).run()
    again = read_report(tmp_path / "run")
    assert [(stage["state"], stage["attempts"]) for stage in again["stages"]] == [
        ("finished", 1),
        ("finished", 2),
    ]


def test_a_run_folder_without_run_json_is_still_one(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, Write("a", name="s1")).run().folder
    (folder / "run.json").unlink()
    assert pipeline(tmp_path, Write("a", name="s1")).run().folder == folder


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "posttrain", "report", *words], capture_output=True, text=True
    )


def test_the_command(tmp_path: Path) -> None:
    run = rlhf(tmp_path / "run")
    done = command(str(run))
    assert (done.returncode, done.stdout) == (0, f"{run / 'report.html'}\n"), done.stderr
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")
    elsewhere = command(str(run), "--out", str(tmp_path / "other.html"))
    assert elsewhere.stdout == f"{tmp_path / 'other.html'}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{tmp}"], "RunFolderError: {tmp} is no run folder: it has no run.json."),
        (["{run}", "--out", "{run}/run.json"], "SettingError: --out {run}/run.json: the page is written over what is there"),
        (["{run}", "--out", "/proc/nowhere/a.html"], "SettingError: The report cannot be written ("),
    ],
)  # fmt: skip
def test_what_the_command_refuses(tmp_path: Path, words: list[str], said: str) -> None:
    names: dict[str, Any] = {"tmp": tmp_path, "run": rlhf(tmp_path / "run")}
    done = command(*(word.format(**names) for word in words))
    assert done.returncode == 2
    assert done.stderr.startswith(said.format(**names)) and len(done.stderr.splitlines()) == 1


def test_secrets_are_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.pipeline.attempts import command as typed
    from posttrain.pipeline.secrets import redacted

    words = [
        "/x/train.py",
        "--token",
        "abc",
        "--api-key=abcd",
        "--model",
        "https://me:pass@host/m",
        "hf_abcdefghijklmnop",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert typed() == "python /x/train.py --token '***' '--api-key=***' --model 'https://***@host/m' '***'"  # fmt: skip
    revision = "revision=0123456789abcdef0123456789abcdef01234567"
    assert redacted(revision) == revision
    monkeypatch.setattr(sys, "argv", ["-c", "secret"])
    assert typed() == ""
