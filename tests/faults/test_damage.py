"""Every file of a checkpoint, harmed in five ways: noticed, put aside, the one before used, and the end is the same."""

import shutil

import pytest

from tests.faults.chain import fingerprints
from tests.faults.damage import DAMAGES, files_of
from tests.faults.forked import Bench
from tests.faults.moments import at_call, cache_at

# Killed after the third checkpoint, of four: two steps are left from the second, and a third would be one too many.
STEPS_FROM_THE_SECOND = {"sft": 2, "ppo": 4}


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(STEPS_FROM_THE_SECOND))
@pytest.mark.parametrize("way", list(DAMAGES))
def test_a_damaged_checkpoint_is_never_read(bench: Bench, stage: str, way: str) -> None:
    _, model = bench.after_three(f"model {stage} {way}", stage)
    names = files_of(model / "step-3")
    assert len(names) >= {"sft": 10, "ppo": 3}[stage] and "manifest.json" in names
    noticed = 0
    for name in names:
        folder, checkpoints = bench.after_three(f"{way} {name.replace('/', ' ')}", stage)
        path, other = checkpoints / "step-3" / name, checkpoints / "step-2" / name
        same = way == "swapped" and path.read_bytes() == other.read_bytes()
        DAMAGES[way](path, other)
        one_too_many = at_call("torch.optim:AdamW.step", STEPS_FROM_THE_SECOND[stage] + 1)
        ended = bench.ends_the_same(folder, stage, one_too_many, damaged=not same)
        assert same or "It is kept as step-3.corrupt-" in ended.log, name
        noticed += not same
        bench.drop(folder)
    assert noticed >= {"sft": 5, "ppo": 3}[stage]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "way"), [("sft", "one bit"), ("sft", "missing"), ("ppo", "empty")])
def test_without_a_whole_checkpoint_nothing_starts_from_scratch(bench: Bench, stage: str, way: str) -> None:
    folder, checkpoints = bench.after_three(f"all {way}", stage)
    for step in (2, 3):
        DAMAGES[way](checkpoints / f"step-{step}" / "manifest.json", folder)
    for _ in range(2):  # nor when it is tried again
        ended = bench.run(folder, stage, at_call("torch.optim:AdamW.step", 1))
        assert ended.code == 1 and "NoValidCheckpointError: All checkpoints in " in ended.log
        assert "Delete that folder to train the stage again." in ended.log
        assert len(list(checkpoints.glob("step-*.corrupt-*"))) == 2
    shutil.rmtree(checkpoints)
    bench.ends_the_same(folder, stage)


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in DAMAGES if way != "swapped"])
def test_damaged_token_tables_are_made_again(bench: Bench, way: str) -> None:
    whole = bench.root / f"tables {way}"
    bench.ends_the_same(bench.case(f"tables {way}", "cpt"), "cpt", cache_at(whole))
    names = [
        name
        for name in files_of(whole)
        if "/train/" in name or name.endswith(("manifest.json", "report.json"))
    ]
    assert len(names) >= 4
    for name in names:
        cache = bench.root / f"cache {way} {name.replace('/', ' ')}"
        shutil.copytree(whole, cache)
        DAMAGES[way](cache / name, cache)
        folder = bench.case(f"{way} {name.replace('/', ' ')}", "cpt")
        bench.ends_the_same(folder, "cpt", cache_at(cache))
        assert len([path for path in cache.rglob("*") if ".corrupt-" in path.name]) == 1, name
        bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["missing", "cut", "one bit", "empty"])
@pytest.mark.parametrize("name", ["launch.json", "attempts.jsonl", "report.html", ".lock"])
def test_what_only_tells_of_a_run_stops_none(bench: Bench, name: str, way: str) -> None:
    folder, checkpoints = bench.after_three(f"{name} {way}", "sft")
    found = [path for path in (folder / name, checkpoints.parent / name) if path.is_file()]
    if not found:
        (folder / name).write_text("of an earlier run")
    for path in found:
        DAMAGES[way](path, folder)
    bench.ends_the_same(folder, "sft")
    bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["missing", "cut", "one bit", "empty"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "proofs.json"])
def test_what_was_measured_is_whole_or_missed(bench: Bench, name: str, way: str) -> None:
    """The model is the same; a hole in the history is said, and what was proven before is not lost without a word."""
    folder, checkpoints = bench.after_three(f"{name} {way}", "sft")
    path = checkpoints.parent / name
    DAMAGES[way](path, folder)
    ended = bench.run(folder, "sft")
    if name == "proofs.json" and way in ("cut", "empty"):
        assert ended.code == 1 and f"CorruptArtifactError: {path} is damaged; delete it to go on" in ended.log
        path.unlink()
        ended = bench.run(folder, "sft")
    ended.finished()
    found = fingerprints(folder)
    different = {key for key, value in bench.expected["sft"].items() if found[key] != value}
    assert different <= ({"sft steps"} if name == "metrics.jsonl" else set())
    assert (f"{path} was damaged: it has " in ended.log) is bool(different)
    bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("upstream", "stage"), [("cpt", "sft"), ("sft", "reward_model"), ("sft", "dpo"), ("reward_model", "ppo")]
)
def test_what_a_finished_stage_made_is_not_taken_when_it_changed(
    bench: Bench, upstream: str, stage: str
) -> None:
    folder = bench.case(f"tampered {upstream} {stage}", stage)
    (weights,) = folder.glob(f"stages/{upstream}-*/adapter/adapter_model.safetensors")
    before = weights.read_bytes()
    DAMAGES["one bit"](weights, folder)
    ended = bench.run(folder, stage, at_call("torch.optim:AdamW.step", 1))
    assert ended.code == 1
    assert f"CorruptArtifactError: Stage {upstream} is finished, but {weights} has changed" in ended.log
    assert not list(folder.glob(f"stages/{stage}-*/metrics.jsonl"))
    weights.write_bytes(before)
    bench.ends_the_same(folder, stage)
