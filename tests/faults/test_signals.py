"""SIGTERM wherever a run can be: it ends with a whole state and exit code 75, and goes on to the same bits."""

import signal

import pytest

from tests.faults.chain import STEPS, Chain
from tests.faults.forked import Bench
from tests.faults.moments import at_call, cache_at

# Where, and at which call; those of training are of the second step.
PLACES = {
    "tokenising": ("posttrain.data_formats:encode_data", 1),
    "forward": ("trl:SFTTrainer.compute_loss", 2),
    "backward": ("accelerate:Accelerator.backward", 2),
    "optimizer": ("torch.optim:AdamW.step", 2),
    "saving": ("posttrain.stages.callbacks:commit_checkpoint", 2),
    "evaluation": ("posttrain.stages.trl_session:TrlSession.measure", 2),
    "between stages": ("posttrain.pipeline.run:StageRecord.write", 1),
}
OF_PPO = {
    "generation": ("posttrain.stages.online.sampling:TransformersSampler.sample", 3),
    "scoring": ("posttrain.stages.ppo.session:prepare", 2),
    "update": ("posttrain.stages.ppo.update:Updater._step", 3),
    "saving": ("posttrain.stages.ppo.session:save_state", 2),
}


@pytest.fixture(scope="module")
def without_dropout(bench: Bench) -> Bench:
    chain = Chain(bench.chain.model, bench.chain.cache, dropout=0.0)
    return Bench.make(bench.root / "no dropout", chain, ("cpt", "sft"))


def terminated(bench: Bench, stage: str, name: str, place: str, nth: int) -> None:
    first = "cpt" if name in ("between stages", "tokenising") else stage
    folder = bench.case(f"{name} {stage}", first)
    arms = [cache_at(bench.root / f"cache {name}")] if name == "tokenising" else []
    ended = bench.run(folder, stage, *arms, at_call(place, nth, signal.SIGTERM))
    assert ended.code == 75, ended.log
    assert "Run the same command again to go on" in ended.log
    assert "Traceback" not in ended.log
    if name in ("forward", "backward", "optimizer", "generation", "scoring", "update"):
        checkpoints = [path.name for path in folder.glob("stages/*/checkpoints/*")]
        assert sorted(checkpoints) == ["step-1", "step-2"]  # that step was finished and saved
    bench.ends_the_same(folder, stage, *arms)
    bench.drop(folder)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", list(PLACES))
def test_sigterm_in_sft(bench: Bench, without_dropout: Bench, name: str, dropout: float) -> None:
    terminated(bench if dropout else without_dropout, "sft", name, *PLACES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OF_PPO))
def test_sigterm_in_ppo(bench: Bench, name: str) -> None:
    assert STEPS > 2
    terminated(bench, "ppo", name, *OF_PPO[name])
