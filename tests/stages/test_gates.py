"""A chain stops behind a stage that did not reach what it must, goes on after a change, and can go back."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import DPO, SFT, Classifier, LoRA, Pipeline, RewardModel, Run
from posttrain.errors import ForgettingError, RequirementError, SettingError, StrategyError
from posttrain.pipeline.interval import less_is_better
from posttrain.stages.gates import check_reached
from tests.stages.words import WORDS

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    both = list(itertools.product(WORDS[:6], repeat=2))
    return {
        "chat": [{"prompt": f"{a} {b}", "completion": "river ."} for a, b in both],
        "pairs": [{"prompt": f"{a} {b}", "chosen": "sun .", "rejected": "dog ."} for a, b in both],
    }


def sft(rows: Rows, **settings: Any) -> SFT:
    return SFT(LoRA(r=2), data=rows["chat"], max_steps=2, batch_size=2, learning_rate=1e-2, **settings)


@pytest.mark.parametrize(
    "name", ["loss", "nll", "perplexity", "neutral_kl_input", "kl", "unknown", "reward_undesirable"]
)
def test_of_losses_less_is_better(name: str) -> None:
    assert less_is_better(name)


@pytest.mark.parametrize(
    "name",
    ["accuracy", "qa.exact_match", "f1", "chrf", "reward", "reward_desirable", "neutral_agreement_input"],
)
def test_of_others_more_is(name: str) -> None:
    assert not less_is_better(name)


def test_what_is_reached_passes_and_all_that_is_not_is_listed() -> None:
    metrics = {
        "loss_before": 3.0,
        "loss_after": 2.0,
        "accuracy_before": 0.9,
        "accuracy_after": 0.6,
        "win_rate": 0.5,
    }
    check_reached("sft", {"loss": 2.0, "accuracy": 0.6, "win_rate": 0.5}, metrics)
    with pytest.raises(RequirementError) as caught:
        check_reached("sft", {"loss": 1.9, "accuracy": 0.7, "win_rate": 0.4}, metrics)
    text = str(caught.value)
    assert "loss is 2 and must be at most 1.9; accuracy is 0.6 and must be at least 0.7." in text
    assert "win_rate" not in text
    with pytest.raises(RequirementError, match="must be at least"):
        check_reached("sft", {"accuracy": 0.5}, {"accuracy_after": float("nan")})


def test_a_name_that_is_not_measured_is_refused_before_training(
    words: Callable[..., Any], rows: Rows
) -> None:
    pipeline = words([sft(rows, require={"acuracy": 0.7})])
    with pytest.raises(SettingError, match="'acuracy', and it measures loss, neutral_agreement_base"):
        pipeline.run()
    assert not list(pipeline.run_dir.rglob("metrics.jsonl"))  # no step was made


def test_the_chain_stops_with_the_numbers_and_goes_on_without_training_again(
    words: Callable[..., Any], rows: Rows
) -> None:
    after = RewardModel(LoRA(r=2), data=rows["pairs"], max_steps=1, batch_size=2)
    with pytest.raises(RequirementError, match=r"Stage sft: loss is \d\.\d+ and must be at most 0\.5"):
        words([sft(rows, require={"loss": 0.5}), after]).run()
    run_dir = words([sft(rows), after]).run_dir
    stopped = Run.load(run_dir)
    assert list(stopped.stages) == ["sft"]
    written = (stopped["sft"].folder / "stage.json").read_bytes()
    with pytest.raises(RequirementError):  # asked anew of the kept record
        words([sft(rows, require={"loss": 0.4}), after]).run()
    run = words([sft(rows, require={"loss": 20.0}), after]).run()
    assert list(run.stages) == ["sft", "reward_model"]
    assert run["sft"].folder == stopped["sft"].folder
    assert (run["sft"].folder / "stage.json").read_bytes() == written


def test_gates_do_not_move_the_default_run_folder(rows: Rows, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    one = Pipeline([sft(rows)], model="tiny-random").run_dir
    assert (
        Pipeline([sft(rows, require={"loss": 1.0}, max_forgetting=1.0)], model="tiny-random").run_dir == one
    )
    assert Pipeline([sft(rows, max_length=77)], model="tiny-random").run_dir != one


def test_forgetting_stops_the_chain_or_hands_the_previous_model_on(
    words: Callable[..., Any], rows: Rows, capsys: Any
) -> None:
    from posttrain.pipeline.printing import print_summary

    after = DPO(LoRA(r=2), data=rows["pairs"], max_steps=1, batch_size=2)
    with pytest.raises(ForgettingError, match=r"nats per token .* allows 1e-09 \(perplexity"):
        words([sft(rows, max_forgetting=1e-9), after]).run()
    back = sft(rows, max_forgetting=1e-9, on_regression="rollback")
    run = words([back, after]).run()
    assert "nats per token away from its input" in run["sft"].rolled_back
    assert (
        run["dpo"].models["policy"].adapters[0].folder.parent == run["dpo"].folder
    )  # no adapter of SFT below it
    assert run["dpo"].metrics["neutral_kl_input"] == run["dpo"].metrics["neutral_kl_base"]
    print_summary(run)
    assert "sft was rolled back: it moved" in " ".join(capsys.readouterr().out.split())
    alone = words([back], name="alone").run()
    assert alone.model == alone.start and Run.load(alone.folder).model == alone.start
    kept = words([sft(rows, max_forgetting=100.0, on_regression="rollback"), after]).run()
    assert not kept["sft"].rolled_back
    assert len(kept["dpo"].models["policy"].adapters) == 2


def test_settings_that_make_no_sense(rows: Rows) -> None:
    with pytest.raises(SettingError, match="give that, too"):
        sft(rows, on_regression="rollback")
    with pytest.raises(SettingError, match="must be one of 'stop', 'rollback'"):
        sft(rows, max_forgetting=1.0, on_regression="warn")
    with pytest.raises(SettingError, match="max_forgetting must be a number at least 0"):
        sft(rows, max_forgetting=-1.0)
    with pytest.raises(SettingError, match=r'require must be a dict such as \{"accuracy": 0.7\}'):
        sft(rows, require=["accuracy"])
    with pytest.raises(SettingError, match="must be a number"):
        sft(rows, require={"accuracy": "high"})
    for kind in (RewardModel, Classifier):
        with pytest.raises(SettingError, match=f"{kind.__name__} makes none"):
            kind(LoRA(r=2), data=rows["pairs"], max_forgetting=0.1)


def test_an_adapter_that_may_be_put_aside_is_not_trained_on(words: Callable[..., Any], rows: Rows) -> None:
    with pytest.raises(StrategyError, match="may put aside"):
        words(
            [
                sft(rows, max_forgetting=0.1, on_regression="rollback"),
                SFT(LoRA(r=2), data=rows["chat"], handover="continue", name="more"),
            ]
        )


def test_a_recipe_whose_gate_is_not_met_ends_with_3() -> None:
    code = (
        "from posttrain.cli import _guarded\nfrom posttrain.errors import ForgettingError\n"
        "def run():\n    raise ForgettingError('too much')\n_guarded(run)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stderr) == (3, "ForgettingError: too much\n")
