"""The largest batch as counted, against what packed_rows.py makes of it."""

from typing import Any

import pytest

from posttrain import DPO, PPO, SFT, LoRA
from posttrain.data_formats import TokenTable
from posttrain.pipeline.packed_rows import packing_of
from posttrain.stages.planner.batches import Batch, largest_batch

SYSTEM = list(range(100, 120))


def packed(rows: list[list[int]], share: bool) -> int:
    """Tokens that really go through the layers."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    packing = packing_of(ids, mask, share=share)
    return ids.numel() if packing is None else packing.ids_1N.shape[1]


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("begin", [SYSTEM, SYSTEM[:5], []], ids=["system", "too short to share", "nothing"])
def test_dialogues(begin: list[int], shares: bool) -> None:
    rows = [begin + [200 + i] * (3 + 2 * i) for i in range(7)]
    labels = [[-100] * (len(row) - 2) + row[-2:] for row in rows]
    table = TokenTable.of({"input_ids": rows, "labels": labels})
    found = largest_batch(SFT(LoRA(), batch_size=3), table, 3, shares)
    assert found == Batch(packed(rows[-3:], shares), 6)


@pytest.mark.parametrize("shares", [True, False])
def test_pairs_have_their_prompt_once(shares: bool) -> None:
    prompts = [[*SYSTEM, *[300 + i] * 9] for i in range(5)]
    chosen, rejected = ([[400 + 10 * i + side] * (4 + i) for i in range(5)] for side in (0, 1))
    table = TokenTable.of({"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected})
    found = largest_batch(DPO(LoRA(), batch_size=2), table, 2, shares)
    sequences = [prompts[i] + answer[i] for i in (3, 4) for answer in (chosen, rejected)]
    assert found == Batch(packed(sequences, shares), 2 * 7 + 2 * 8)


def test_a_prompt_is_followed_by_its_answer() -> None:
    prompts = [[*SYSTEM, *[300 + i] * (2 + i)] for i in range(5)]
    table = TokenTable.of({"prompt_ids": prompts}, records=[{}] * 5)
    stage = PPO(LoRA(), reward=len, max_new_tokens=6, max_length=64)
    answered = [prompt + [500 + i] * 6 for i, prompt in enumerate(prompts)]
    found = largest_batch(stage, table, 2, True)
    assert found.tokens == packed(answered[-2:], True)


def test_a_plan_counts_what_is_computed(tmp_path: Any) -> None:
    """Rows that share most of their tokens need less memory than rows of the same length that share none."""
    from posttrain import Pipeline

    words = [f"{name} went" for name in ("Ada", "Ben", "Cleo", "Dan", "Eva", "Fay", "Gus", "Hal")]

    def planned(rows: list[dict[str, str]]) -> int:
        stage = SFT(LoRA(), data=rows, eval_data=rows[:1], batch_size=8)
        (plan,) = Pipeline([stage], model="embedded", run_dir=tmp_path / "run").plan()
        assert plan is not None
        return plan.memory_parts["activations"]

    same = [{"prompt": "river " * 120, "completion": one} for one in words]
    other = [{"prompt": f"{one} " + "river " * 118, "completion": "river"} for one in words]
    assert planned(same) < 0.5 * planned(other)
