"""Finished stages are skipped, changed ones and those after them run again, and a folder belongs to one pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from posttrain import Pipeline, Run, Stage, StageContext, StageResult
from posttrain.errors import (
    CorruptArtifactError,
    DiskSpaceError,
    OtherPipelineError,
    RunFolderError,
)
from posttrain.pipeline import AdapterRef, StagePlan
from posttrain.pipeline.durable import commit_folder, read_sealed, write_sealed
from posttrain.pipeline.model_ref import ModelRef, adapter_digest


@dataclass(frozen=True)
class Write(Stage):
    """A stand-in for training: its "adapter" is a text, its result depends on the input model and the seed."""

    text: str = "x"
    fails: bool = field(default=False, kw_only=True)

    makes: ClassVar[str] = "policy"
    needs: ClassVar[tuple[str, ...]] = ("policy",)
    ran: ClassVar[list[str]] = []

    def run(self, context: StageContext) -> StageResult:
        self.ran.append(context.name)
        if self.fails:
            raise RuntimeError("a defect")
        source = context.inputs["policy"]
        content = f"{self.text} {source.fingerprint} {context.seed}"
        target = context.folder / "adapter"

        def fill(aside: Path) -> None:
            (aside / "a").write_text(content)
            (aside / "adapter_config.json").write_text('{"peft_type": "LORA"}')

        commit_folder(target, fill)
        context.events.begin_steps(0, 1)
        context.events.step(1, {"loss": 1.0})
        made = source.with_adapter(AdapterRef(target, adapter_digest(target), source.fingerprint))
        return StageResult({"policy": made}, metrics={"loss_before": 2.0, "loss_after": 1.0})

    def identity(self) -> Mapping[str, Any]:
        return {"text": self.text}

    def plan(self, inputs: Mapping[str, ModelRef]) -> StagePlan:
        disk = 10**18 if self.text == "huge" else 1
        return StagePlan(
            rows_read=1, rows=1, tokens=1, trained_share=1.0, cut=0, dropped=0, held_out=0, steps=1,
            trainable_parameters=1, total_parameters=1, memory_bytes=1, disk_bytes=disk,
        )  # fmt: skip


def pipeline(folder: Path, *texts: str, **settings: Any) -> Pipeline:
    stages = [Write(text, name=f"s{number}") for number, text in enumerate(texts, 1)]
    return Pipeline(stages, model="tiny-random", run_dir=folder / "run", **settings)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    Write.ran.clear()


def ran() -> list[str]:
    names = list(Write.ran)
    Write.ran.clear()
    return names


def test_run_again_skips_everything_and_gives_the_same_run(tmp_path: Path) -> None:
    first = pipeline(tmp_path, "a", "b").run()
    assert ran() == ["s1", "s2"]
    second = pipeline(tmp_path, "a", "b").run()
    assert ran() == []
    assert second == first == Pipeline.load(tmp_path / "run")
    assert second["s1"].metrics == {"loss_before": 2.0, "loss_after": 1.0}
    assert second.model.fingerprint == first.model.fingerprint
    assert len(second.model.adapters) == 2


@pytest.mark.parametrize(
    ("texts", "settings", "expected"),
    [
        (("a", "b", "c"), {}, []),
        (("A", "b", "c"), {}, ["s1", "s2", "s3"]),
        (("a", "B", "c"), {}, ["s2", "s3"]),
        (("a", "b", "C"), {}, ["s3"]),
        (("a", "b", "c"), {"seed": 1}, ["s1", "s2", "s3"]),
        (("a", "b", "c"), {"track": "tensorboard"}, []),  # a log-only setting
        (("a", "b"), {}, []),
        (("a", "b", "c", "d"), {}, ["s4"]),
    ],
)
def test_a_changed_stage_and_those_after_it_run_again(
    tmp_path: Path, texts: tuple[str, ...], settings: dict[str, Any], expected: list[str]
) -> None:
    pipeline(tmp_path, "a", "b", "c").run()
    ran()
    pipeline(tmp_path, *texts, **settings).run()
    assert ran() == expected


def test_going_back_to_earlier_settings_trains_nothing(tmp_path: Path) -> None:
    first = pipeline(tmp_path, "a", "b").run()
    pipeline(tmp_path, "a", "B").run()
    ran()
    assert pipeline(tmp_path, "a", "b").run() == first
    assert ran() == []


def test_checkpoints_that_outlived_their_stage_are_removed(tmp_path: Path) -> None:
    """A kill may come between a stage's record and the removal of what it needs no more."""
    record = pipeline(tmp_path, "a").run()["s1"]
    for name in ("checkpoints", "scratch"):
        (record.folder / name / "step-1").mkdir(parents=True)
    pipeline(tmp_path, "a").run()
    assert not {path.name for path in record.folder.iterdir()} & {"checkpoints", "scratch"}


def test_what_was_finished_survives_a_failure(tmp_path: Path) -> None:
    stages = [Write("a", name="s1"), Write("b", name="s2", fails=True)]
    with pytest.raises(RuntimeError):
        Pipeline(stages, model="tiny-random", run_dir=tmp_path / "run").run()
    assert ran() == ["s1", "s2"]
    kept = Run.load(tmp_path / "run")
    assert list(kept.stages) == ["s1"]
    with pytest.raises(KeyError, match="no finished stage 's2'"):
        kept["s2"]
    pipeline(tmp_path, "a", "b").run()
    assert ran() == ["s2"]


def test_a_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    pipeline(tmp_path, "a", "b").run()
    with pytest.raises(OtherPipelineError, match=r"holds another pipeline \(s1 -> s2 on tiny-random\)"):
        Pipeline([Write("a", name="other")], model="tiny-random", run_dir=tmp_path / "run")
    with pytest.raises(OtherPipelineError, match="on embedded"):
        Pipeline([Write("a", name="s1")], model="embedded", run_dir=tmp_path / "run")


@pytest.mark.parametrize("file", ["run.json", "stage.json"])
def test_an_edited_record_is_refused(tmp_path: Path, file: str) -> None:
    run = pipeline(tmp_path, "a").run()
    path = run.folder / file if file == "run.json" else run["s1"].folder / file
    path.write_text(path.read_text().replace("s1", "s9", 1))
    with pytest.raises(CorruptArtifactError, match="its seal does not fit"):
        Run.load(run.folder)
    with pytest.raises(CorruptArtifactError, match="its seal does not fit"):
        pipeline(tmp_path, "a").run()


def test_a_lost_run_file_is_rebuilt_from_the_stages(tmp_path: Path) -> None:
    first = pipeline(tmp_path, "a", "b").run()
    ran()
    (first.folder / "run.json").unlink()
    assert pipeline(tmp_path, "a", "b").run() == first
    assert ran() == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DiskSpaceError, match="Nothing was started"):
        pipeline(tmp_path, "a", "huge").run()
    assert ran() == []


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    from posttrain.pipeline.lock import run_lock

    (tmp_path / "run").mkdir()
    with run_lock(tmp_path / "run"), pytest.raises(RunFolderError, match="in use by process"):
        pipeline(tmp_path, "a").run()


def test_a_run_can_start_from_the_model_of_another(tmp_path: Path) -> None:
    first = pipeline(tmp_path, "a").run()
    second = Pipeline([Write("b")], model=first.model, run_dir=tmp_path / "second").run()
    assert second.start == first.model
    assert len(second.model.adapters) == 2


@dataclass(frozen=True)
class Answer(Write):
    """Answers a prompt of its own, and those that it is asked again."""

    def run(self, context: StageContext) -> StageResult:
        prompts = (f"Hello, {context.name}?", *context.asked)
        samples = [{"prompt": prompt, "answer": self.text} for prompt in prompts]
        return replace(super().run(context), samples=samples)


def test_later_stages_are_asked_what_earlier_ones_were(tmp_path: Path) -> None:
    stages = [Answer("a", name="s1"), Answer("b", name="s2"), Answer("c", name="s3")]
    run = Pipeline(stages, model="tiny-random", run_dir=tmp_path / "run").run()
    asked = [[sample["prompt"] for sample in record.samples] for record in run]
    one, two, three = (f"Hello, s{i}?" for i in (1, 2, 3))
    assert asked == [[one], [two, one], [three, one, two]]
    # of a finished stage they are known from its record
    changed = [*stages[:2], Answer("d", name="s3")]
    again = Pipeline(changed, model="tiny-random", run_dir=tmp_path / "run").run()
    assert [sample["prompt"] for sample in again["s3"].samples] == [three, one, two]


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, "a").run().folder
    path = next(folder.glob("stages/*/stage.json"))
    value = read_sealed(path)
    assert value.pop("measured")["disk_bytes"] > 0
    write_sealed(path, value)
    assert Run.load(folder)["s1"].measured == {}
