"""On the embedded model and the packaged sample data each stage improves its own held-out rows."""

from pathlib import Path

import pytest

from posttrain import DPO, SFT, LoRA, Pipeline, RewardModel
from posttrain.data_formats import sample


def first(kind: str, count: int, folder: Path) -> Path:
    """The first held-out rows of the sample, as a file of their own: fewer rows to measure, same meaning."""
    lines = sample(kind, held_out=True).read_text().splitlines(keepends=True)[:count]  # type: ignore[arg-type]
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.mark.slow
def test_every_stage_improves_its_held_out_rows(tmp_path: Path) -> None:
    lora = LoRA(r=16)
    chat, pairs = first("conversation", 16, tmp_path), first("preference", 24, tmp_path)
    stages = [
        SFT(lora, eval_data=chat, max_steps=6, batch_size=6, learning_rate=1e-3),
        RewardModel(lora, eval_data=pairs, max_steps=8, batch_size=4, learning_rate=5e-4),
        DPO(lora, eval_data=pairs, max_steps=5, batch_size=4, learning_rate=2e-4),
    ]
    run = Pipeline(stages, run_dir=tmp_path / "run").run()
    sft, reward, dpo = (run[name].metrics for name in ("sft", "reward_model", "dpo"))
    assert sft["loss_after"] < sft["loss_before"] - 0.1  # nats per token
    assert reward["accuracy_after"] > 0.6
    assert dpo["margin_before"] == 0.0
    assert dpo["margin_after"] > 0.02
    answers = [entry["answer"] for entry in run["dpo"].samples[:3]]
    assert len(answers) == 3 and all(len(answer.split()) > 3 for answer in answers)
    again = [entry["prompt"] for entry in run["dpo"].samples[3:]]
    assert again == [entry["prompt"] for entry in run["sft"].samples]
    # The same run, read back on another day: every held-out number and every proof is there.
    again = Pipeline.load(run.folder)
    assert again["dpo"].metrics == dpo
    assert all(stage.proofs["read_back_difference"] < 1e-3 for stage in again)
