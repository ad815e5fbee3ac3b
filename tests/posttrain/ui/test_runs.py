"""The list of runs says what the folders say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.pipeline.launch import Launch, Started
from posttrain.pipeline.lock import run_lock, worker
from posttrain.ui.app import Site
from posttrain.ui.runs import stamp_of
from tests.posttrain.report.runs import RunFolder, rlhf, write_steps


def row_of(site: Site, folder: Path) -> dict[str, object]:
    return site.runs.row(site.runs.id_of(folder), folder)


def test_a_finished_run(site: Site) -> None:
    row = row_of(site, rlhf(site.root / "deep" / "a"))
    assert (row["name"], row["status"], row["step"]) == ("deep/a", "finished", None)
    assert row["stages"] == [{"name": name, "state": "finished"} for name in ("sft0", "reward_model", "ppo")]


def test_a_run_at_work_says_how_far_it_is(site: Site) -> None:
    run = RunFolder(site.root / "a", ["sft", "dpo"])
    write_steps(run.begin("sft"), [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}])
    folder = run.write()
    with run_lock(folder):
        row = row_of(site, folder)
    assert (row["status"], row["step"], row["steps"], row["loss"]) == ("running", 2, 10, 2.5)
    assert row["stages"] == [{"name": "sft", "state": "running"}, {"name": "dpo", "state": "waiting"}]
    assert row_of(site, folder)["status"] == "stopped"


def test_only_what_can_be_resumed_is_offered(site: Site) -> None:
    folder = rlhf(site.root / "a")
    for started, offered in (
        (Started(str(site.root), recipe="stages: [SFT]"), True), (Started(str(site.root / "gone"), recipe="x"), False),
        (Started(str(site.root), why_not="it was started from a notebook"), False), (Started(str(site.root), processes=2), False),
    ):  # fmt: skip
        Launch(("sft0", "reward_model", "ppo", "dpo"), started, time.time(), "stopped").write(folder)
        assert row_of(site, folder)["resumes"] is offered


def test_a_stop_that_was_asked_for_is_no_error(site: Site) -> None:
    run = RunFolder(site.root / "a", ["sft", "dpo"])
    write_steps(run.begin("sft"), [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}])
    folder = run.write()
    for error, told in (
        ("RunInterrupted: Stopped by SIGTERM", ""),
        ("KeyboardInterrupt: ", ""),
        ("Other: x", "Other: x"),
    ):
        Launch(
            ("sft", "dpo"), Started(str(site.root), recipe="x"), time.time(), "stopped", error=error
        ).write(folder)
        row = row_of(site, folder)
        assert (row["status"], row["error"], row["step"]) == ("stopped", told, 2)


def test_the_stamp_follows_what_the_report_shows(site: Site) -> None:
    folder = rlhf(site.root / "a")
    seen = [stamp_of(folder)]
    with (folder / "stages" / "stage-0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21, "loss": 1.0}) + "\n")
    seen.append(stamp_of(folder))
    with run_lock(folder):
        seen.append(stamp_of(folder))
    (folder / "report.html").write_text("x")
    assert len(set(seen)) == 3 and stamp_of(folder) == seen[1]


def test_names_that_are_strange_have_plain_addresses(site: Site) -> None:
    for name in ("a b?#%2F&c", "<script>alert(1)</script>".replace("/", "_"), "\u202eevil", "数据", "\udcff"):
        folder = rlhf(site.root / name, steps=1)
        id = site.runs.id_of(folder)
        assert id.isalnum() and site.runs.folder(id) == folder
    json.dumps(site.runs.listed(), ensure_ascii=False).encode()


def test_a_start_that_fails_is_told(site: Site) -> None:
    folder = site.training.start_yaml("bad", "stages:\n  - SFTT\n")
    assert (site.root / "bad.yaml").read_text() == "stages:\n  - SFTT\n"
    assert site.runs.listed()[0]["status"] == "starting"
    site.training._started[folder].wait(120)
    row = row_of(site, folder)
    assert row["status"] == "failed" and "there is no 'SFTT'" in str(row["error"])
    assert site.training.folder("bad") == folder  # the name is free again


def test_who_works_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time, pathlib; from posttrain.pipeline.lock import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    assert worker(site.root) is None
    other = subprocess.Popen([sys.executable, "-c", code, str(site.root)], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"in\n"
    assert worker(site.root) == other.pid
    assert not site.training.is_stopping(site.root)
    os.kill(other.pid, signal.SIGSTOP)  # it hears of the stop later
    site.training.stop(site.root)
    assert site.training.is_stopping(site.root)
    os.kill(other.pid, signal.SIGCONT)
    assert other.wait(30) == -15
    assert not site.training.is_stopping(site.root)
    other.stdout.close()
    assert worker(site.root) is None
