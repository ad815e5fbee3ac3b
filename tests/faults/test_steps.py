"""kill -9 before and after every optimizer step of every stage, and at every part of a PPO step."""

import pytest

from tests.faults.chain import STAGES, STEPS
from tests.faults.forked import Bench
from tests.faults.moments import at_call

STEP = "torch.optim:AdamW.step"
# (what happens, where, its calls before the training, its calls in a stage's four steps)
OF_PPO = [
    ("generation", "posttrain.stages.online.sampling:TransformersSampler.sample", 1, STEPS),
    ("scoring", "posttrain.stages.ppo.session:prepare", 0, STEPS),
    ("epoch", "posttrain.stages.ppo.update:Updater._step", 0, 2 * STEPS),
    ("update of the policy, before the critic's", "posttrain.stages.ppo.update:Updater._policy_backward", 0, 2 * STEPS),
    ("save of the tensors, before the numbers", "posttrain.stages.ppo.state:write_json", 0, STEPS),
]  # fmt: skip
CASES = [
    *[(stage, STEP, number, after, f"{stage}, {'after' if after else 'before'} step {number}")
      for stage in STAGES if stage != "ppo" for number in range(1, STEPS + 1) for after in (False, True)],
    *[("ppo", STEP, number, True, f"ppo, after update {number}") for number in range(1, 2 * STEPS + 1)],
    *[("ppo", place, before + number, False, f"ppo, {what} {number}")
      for what, place, before, count in OF_PPO for number in range(1, count + 1)],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "place", "nth", "after"), [case[:4] for case in CASES], ids=[case[4] for case in CASES]
)
def test_killed_at_a_step(bench: Bench, stage: str, place: str, nth: int, after: bool) -> None:
    folder = bench.case(f"{stage} {place.rpartition('.')[2]} {nth} {after}", stage)
    bench.run(folder, stage, at_call(place, nth, after=after)).killed()
    bench.ends_the_same(folder, stage)
    bench.drop(folder)
