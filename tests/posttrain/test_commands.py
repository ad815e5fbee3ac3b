"""The commands that read run folders and recipes: what they print, as text and as JSON, and how they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from posttrain import Pipeline, Stage, StageContext, StageResult, cli
from posttrain.errors import RunInterrupted
from posttrain.pipeline.cleaning import leftovers
from posttrain.pipeline.launch import Launch, Started
from posttrain.pipeline.lock import is_locked, run_lock
from posttrain.pipeline.run_list import read_state

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["posttrain", *words])
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@dataclass(frozen=True)
class Look(Stage):
    """Makes numbers and no model."""

    r: int = 2

    needs: ClassVar[tuple[str, ...]] = ("policy",)

    def run(self, context: StageContext) -> StageResult:
        rows = {"rows_read": 32, "rows_kept": 24, "rows_held_out": 8}
        return StageResult(models={}, metrics={"loss_before": 2.0, "loss_after": 1 / self.r}, data=rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs that differ in one setting."""
    folder = tmp_path_factory.mktemp("runs")
    for name, r in (("one", 2), ("two", 4)):
        Pipeline([Look(r)], model="tiny-random", run_dir=folder / name).run()
    return folder


def recipe(folder: Path, **settings: Any) -> Path:
    """A YAML recipe of one stage on the tiny model."""
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"say {i}", "completion": "river"}) + "\n" for i in range(32))
    )
    stage = {"data": str(rows), "max_steps": 2, "batch_size": 4, "strategy": {"LoRA": {"r": 2}}} | settings
    file = folder / "recipe.yaml"
    file.write_text(json.dumps({"model": "tiny-random", "run_dir": "run", "stages": [{"SFT": stage}]}))
    return file


# run, resume, runs


def test_a_yaml_recipe_runs_and_is_resumed_from_its_run_folder(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle; then the recipe is deleted and the folder moved, and `resume` finishes the same run."""
    from posttrain.pipeline.events import StageEvents

    monkeypatch.chdir(tmp_path)
    file, real = recipe(tmp_path), StageEvents.step

    def stops(self: Any, step: int, metrics: Any) -> None:
        real(self, step, metrics)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StageEvents, "step", stops)
        code, _, said = call("run", "recipe.yaml", "--set", "sft.max_steps=3")
    assert code == 75 and "Run the same command again to go on" in said
    state = read_state(tmp_path / "run")
    assert (state.status, state.stages, state.finished, state.last_stage) == ("stopped", ("sft",), (), "sft")
    assert state.error.startswith("RunInterrupted: Stopped by SIGTERM")

    file.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    code, printed, said = call("resume", str(tmp_path / "moved"))
    assert code == 0, said
    assert "Before and after" in printed
    run = Pipeline.load(tmp_path / "moved")
    assert [line["step"] for line in run["sft"].history] == [1, 2, 3]
    assert read_state(tmp_path / "moved").status == "finished"
    assert not (tmp_path / "run").exists()


def test_a_script_runs_and_is_resumed_by_its_command_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom posttrain import Pipeline, Stage, StageResult\n"
        "from posttrain.cli import main\nfrom posttrain.errors import DataError\n\n"
        "class Look(Stage):\n    needs = ('policy',)\n\n    def run(self, context):\n"
        "        if not Path('ready').exists():\n            raise DataError('nothing to look at')\n"
        "        return StageResult(models={})\n\n"
        "print('WORDS', sys.argv[1:])\nPipeline([Look()], model='tiny-random', run_dir=sys.argv[1]).run()\n"
    )
    run = tmp_path / "run"

    def posttrain(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "posttrain", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    failed = posttrain("run", "script.py", "run", "--mine")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1] == "DataError: nothing to look at"
    state = read_state(run)
    assert (state.status, state.error, state.last_stage) == ("failed", failed.stderr.splitlines()[-1], "look")
    (tmp_path / "ready").touch()
    again = posttrain("resume", "run")
    assert again.returncode == 0 and again.stdout == "WORDS ['run', '--mine']\n"
    assert again.stderr.splitlines()[0] == f"In {tmp_path}: python {script} run --mine"
    assert read_state(run).status == "finished"


def launched(run: Path, **changes: Any) -> Path:
    """A run folder that says no more than how it was started."""
    run.mkdir(exist_ok=True)
    Launch(("sft", "dpo"), Started(**({"folder": str(run)} | changes)), begun=0.0).write(run)
    return run


@pytest.mark.parametrize(
    ("started", "sentence"),
    [
        (
            {"why_not": "it was started from a notebook"},
            "cannot be resumed from here: it was started from a notebook.",
        ),
        ({"words": ("gone.py",)}, "was started by gone.py, which is there no more."),
        ({"folder": "/nowhere"}, "was started in /nowhere, which is there no more"),
        ({"words": ("s.py", "--a b"), "processes": 2}, "accelerate launch --num_processes 2 s.py '--a b'"),
        (
            {"recipe": "x", "recipe_name": "r.yaml", "processes": 4},
            "--num_processes 4 -m posttrain run r.yaml",
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    tmp_path: Path, call: Call, started: dict[str, Any], sentence: str
) -> None:
    code, _, said = call("resume", str(launched(tmp_path / "run", **started)))
    assert code == 2
    assert said.startswith("RunFolderError: ") and sentence in said


def test_how_a_process_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    def of(words: list[str], **main: Any) -> Started:
        module = types.ModuleType("__main__")
        vars(module).update({"__spec__": None} | main)
        monkeypatch.setitem(sys.modules, "__main__", module)
        monkeypatch.setattr(sys, "argv", words)
        return Started.by_this_process()

    assert of(["x.py", "--r", "8"], __file__="/a/x.py").words == ("/a/x.py", "--r", "8")
    spec = types.SimpleNamespace(name="tool.__main__")
    assert of(["tool", "go"], __spec__=spec, __file__="/a/tool/__main__.py").words == ("-m", "tool", "go")
    assert "notebook" in of([""]).why_not
    for secret in (["--hub-token", "abc"], ["--hub_token=abc"], ["hf_" + "a" * 30]):
        found = of(["x.py", *secret], __file__="/a/x.py")
        assert "looks like a secret" in found.why_not and not found.words


def test_runs_are_listed_with_how_they_stand(
    runs: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = tmp_path / "all"
    shutil.copytree(runs, folder / "done")
    launched(folder / "killed")
    broken = launched(folder / "broken")
    (broken / "run.json").write_text("{}")
    with run_lock(launched(folder / "busy")):
        code, printed, _ = call("runs", str(folder), "--json")
        assert code == 0
        found = {Path(one["folder"]).relative_to(folder).as_posix(): one for one in json.loads(printed)}
        assert {name: one["status"] for name, one in found.items()} == {
            "done/one": "finished", "done/two": "finished", "killed": "stopped", "broken": "damaged", "busy": "running",
        }  # fmt: skip
    assert not is_locked(folder / "busy")
    assert found["killed"]["last_stage"] == "sft" and found["killed"]["error"] == "The process was killed."
    assert found["done/one"]["bytes"] == sum(
        file.stat().st_size for file in (folder / "done" / "one").rglob("*") if file.is_file()
    )
    code, printed, _ = call("runs", str(folder))
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("done/two")]
    assert line.split()[1:6] == ["finished", "1", "of", "1", "look"]
    monkeypatch.chdir(tmp_path)
    assert call("runs")[0] == 2  # there is no folder runs/


def test_a_failed_run_says_why(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, max_length=4)
    code, _, said = call("run", "recipe.yaml")
    assert code == 2 and said.startswith("OverlongError: ")
    state = read_state(tmp_path / "run")
    assert state.status == "failed" and state.error == said.strip()


def test_an_interruption_is_no_failure(tmp_path: Path) -> None:
    from posttrain.pipeline.launch import launched as keep

    for error, status in (
        (RunInterrupted("x"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError("x"), "failed"),
    ):
        with pytest.raises(type(error)), keep(tmp_path, ["sft"], Started("/")):
            raise error
        found = Launch.read(tmp_path)
        assert found is not None and found.status == status and found.ended is not None


# show, compare, clean


def test_show_as_json(runs: Path, call: Call) -> None:
    code, printed, _ = call("show", str(runs / "one"), "--json")
    assert code == 0
    (stage,) = json.loads(printed)["stages"]
    assert stage["metrics"] == {"loss_before": 2.0, "loss_after": 0.5}
    assert stage["rows"]["trained_on"] == 24


def test_compare_puts_metrics_side_by_side(runs: Path, call: Call) -> None:
    code, printed, _ = call("compare", str(runs / "one"), str(runs / "two"), "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["metrics"]["look"]["loss_after"] == [0.5, 0.25]
    assert found["settings"] == {"look": {"r": [2, 4]}}
    code, printed, _ = call("compare", str(runs / "one"), str(runs / "two"))
    (line,) = [line for line in printed.splitlines() if "loss_after" in line]
    assert line.split()[-2:] == ["0.5", "0.25"]
    code, _, said = call("compare", str(runs / "one"))
    assert code == 2 and "compare takes two runs and more" in said


def test_clean_shows_sizes_asks_and_keeps_what_a_run_goes_on_from(
    runs: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    (stage,) = (run / "stages").iterdir()
    kept = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}

    def put(path: Path, size: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        return path

    put(stage / "checkpoints" / "step-1" / "a", 1000)
    put(stage / ".adapter.1.tmp" / "a", 2000)
    put(run / ".run.json.1.tmp", 4000)
    put(run / "stages" / "look-unfinished" / "checkpoints" / "step-1" / "a", 8000)
    older = put(run / "stages" / "look-older" / "stage.json", 16000)
    assert sorted(one.bytes for one in leftovers(tmp_path)) == [1000, 2000, 4000, 8000]
    assert sum(one.bytes for one in leftovers(tmp_path, older=True)) == 31000

    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    code, printed, _ = call("clean", str(tmp_path))
    assert code == 1 and "Nothing was deleted." in printed and "2 kB" in printed
    assert sum(one.bytes for one in leftovers(tmp_path)) == 15000
    code, printed, _ = call("clean", str(tmp_path), "--yes")
    assert code == 0 and "Deleted 15 kB." in printed
    assert {
        file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"
    } == {file: text for file, text in kept.items() if file.name != ".lock"} | {older: b"x" * 16000}
    assert call("clean", str(run), "--yes")[1] == "There is nothing to delete.\n"
    with run_lock(run):
        assert not leftovers(run, older=True)
        assert call("clean", str(run))[1].splitlines()[0] == f"{run} is running and left alone."


def test_clean_keeps_the_checkpoints_of_a_stopped_run(tmp_path: Path) -> None:
    from posttrain.pipeline.durable import write_sealed

    run = launched(tmp_path / "run")
    write_sealed(
        run / "run.json", {"pipeline": ["sft"], "stages": [{"name": "sft", "folder": "stages/sft-1"}]}
    )
    (run / "stages" / "sft-1" / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "stages" / "sft-1" / "scratch").mkdir()
    (run / "stages" / "sft-1" / "checkpoints" / "step-2.corrupt-1").mkdir()
    assert [one.path.name for one in leftovers(run)] == ["scratch", "step-2.corrupt-1"]
    (run / "stages" / "sft-1" / "checkpoints" / "step-1").rmdir()
    assert [one.path.name for one in leftovers(run)] == [
        "scratch"
    ]  # the stage still knows that it lost something


# init, plan, explain, doctor, formats


def test_init_lists_and_copies_and_never_overwrites(tmp_path: Path, call: Call) -> None:
    from posttrain.packaged_recipes import packaged_recipes

    scripts = {path.stem for path in (ROOT / "recipes").glob("[!_]*.py")}
    assert {one.name for one in packaged_recipes()} == scripts | {"launch"} and len(scripts) >= 3
    code, printed, _ = call("init")
    assert code == 0
    assert any(line.startswith("rlhf ") and "Reinforcement learning" in line for line in printed.splitlines())
    assert call("init", "quickstart", str(tmp_path / "mine"))[0] == 0
    for name in ("quickstart.py", "quickstart.yaml"):
        assert (tmp_path / "mine" / name).read_bytes() == (ROOT / "recipes" / name).read_bytes()
    assert call("init", "launch", str(tmp_path / "mine"))[0] == 0
    assert (tmp_path / "mine" / "ddp.yaml").is_file()
    (tmp_path / "mine" / "quickstart.py").unlink()
    code, _, said = call("init", "quickstart", str(tmp_path / "mine"))
    assert code == 2 and "quickstart.yaml is there already" in said
    assert not (tmp_path / "mine" / "quickstart.py").exists()
    code, _, said = call("init", "quikstart")
    assert code == 2 and said == "RecipeError: There is no recipe 'quikstart'; did you mean quickstart?\n"


def test_a_recipe_is_planned_and_explained_in_both_forms(tmp_path: Path, call: Call) -> None:
    run = str(tmp_path / "run")
    yaml = (
        "plan",
        str(ROOT / "recipes" / "quickstart.yaml"),
        "--set",
        "model=tiny-random",
        "--set",
        f"run_dir={run}",
    )
    script = ("plan", str(ROOT / "recipes" / "quickstart.py"), "--model", "tiny-random", "--run-dir", run)
    plans = [json.loads(call(*words, "--json")[1]) for words in (yaml, script)]
    assert plans[0] == plans[1]
    assert [(plan["stage"], plan["steps"]) for plan in plans[0]] == [
        ("cpt", 4), ("sft", 6), ("reward_model", 8), ("ppo", 7),
    ]  # fmt: skip
    assert "optimizer steps" in call(*yaml)[1]
    assert not Path(run).exists()
    code, printed, _ = call(
        "explain", str(ROOT / "recipes" / "quickstart.yaml"), "--set", "model=tiny-random"
    )
    assert code == 0 and "learning_rate" in printed and "given" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("plan",), "plan takes a recipe file, or --memory and --model."),
        (("plan", "--memroy", "8GB"), "There is no option --memroy"),
        (("plan", "a.yaml", "--memory", "8GB"), "plan takes a recipe file or --memory, not both"),
        (("plan", "a.yaml", "--max-length", "8"), "--max-length: a YAML recipe has no flags"),
        (("plan", "--memory", "8GB", "--model", "7B", "--json"), "--json and --set are for a recipe file"),
        (("run", "nowhere.yaml"), "The recipe nowhere.yaml cannot be read (No such file or directory)."),
        (("run", "nowhere.py"), "There is no file nowhere.py."),
        (("run", "x.toml"), "a recipe ends in .yaml, .yml, .json or .py"),
        (("run", "x.py", "--set", "a=1"), "this changes a YAML recipe"),
        (
            ("run", "x.yaml", "--model", "embedded"),
            "--model: a YAML recipe has no flags; change it with --set",
        ),
        (("resume", "/"), "/ is no run folder"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(
    call: Call, words: tuple[str, ...], sentence: str
) -> None:
    code, _, said = call(*words)
    assert code == 2
    assert sentence in said and len(said.splitlines()) == 1


def test_doctor_says_what_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else real(name))
    code, printed, _ = call("doctor", "--json")
    found = {(one["topic"], one["name"]): one for one in json.loads(printed)}
    assert code == 0
    assert (
        found["missing", "sacrebleu"]["value"]
        == "for chrF of translations: pip install 'posttrain[translation]'"
    )
    assert {"torch", "transformers", "trl", "peft"} <= {name for topic, name in found if topic == "versions"}
    assert ("hardware", "memory") in found
    monkeypatch.setattr("posttrain.diagnosis.requires", lambda name: ["trl>=99", "nosuchpackage>=1"])
    code, printed, _ = call("doctor")
    assert code == 1
    assert "needed: >=99" in printed and "not installed; needed: nosuchpackage>=1" in printed


def test_formats_are_listed_from_the_code(call: Call) -> None:
    from posttrain.data_formats.formats.registry import formats

    code, printed, _ = call("formats")
    assert code == 0
    assert all(any(line.split()[:1] == [one.name] for line in printed.splitlines()) for one in formats())


def test_the_schema_is_json(call: Call) -> None:
    code, printed, _ = call("schema")
    assert code == 0 and json.loads(printed)["title"] == "posttrain recipe"


def test_the_exit_codes_are_documented() -> None:
    """Each code that a command ends with stands in the table of docs/command-line.md."""
    page = (ROOT / "docs" / "command-line.md").read_text()
    for code in (0, 1, 2, 75):
        assert f"| {code} |" in page
    for name in (command.callback.__name__ for command in cli.app.registered_commands if command.callback):
        assert f"`posttrain {name}" in page, name
