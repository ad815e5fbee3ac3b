"""Adapters as sums of factors, against the merged models of their lineage."""

import json
from pathlib import Path

import pytest
import torch

from posttrain.errors import StrategyError
from posttrain.pipeline.plain_lora import Factors, PlainLora
from tests.posttrain.serving.runs import random_lora, write_run


def test_a_sum_is_the_factors_side_by_side() -> None:
    one = PlainLora({"x": Factors(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))})
    two = PlainLora({"x": Factors(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))})
    found = PlainLora.sum([one, two], [2.0, -1.0]).layers["x"]
    assert found.rank == 2
    # 2 * [[3, 6], [4, 8]] - [[0, 1], [0, 1]]
    assert (found.b_OR @ found.a_RI).tolist() == [[6.0, 11.0], [8.0, 15.0]]


def test_cutting_keeps_the_largest_directions() -> None:
    # B A = diag(5, 2, 1): of rank 2 it is diag(5, 2, 0), off by 1 of sqrt(25 + 4 + 1)
    whole = PlainLora({"x": Factors(torch.eye(3), torch.diag(torch.tensor([5.0, 2.0, 1.0])))})
    cut, error = whole.cut_to(2)
    assert cut.layers["x"].rank == 2
    assert torch.allclose(
        cut.layers["x"].b_OR @ cut.layers["x"].a_RI, torch.diag(torch.tensor([5.0, 2.0, 0.0])), atol=1e-6
    )
    assert error == pytest.approx(1 / 30**0.5)
    assert whole.cut_to(3)[1] == pytest.approx(0.0, abs=1e-7)


def test_a_lineage_is_one_adapter(tmp_path: Path) -> None:
    """Of other layers, ranks and scalings, and read back by PEFT."""

    def scaled(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        config |= {
            "use_rslora": True,
            "lora_alpha": 7,
            "alpha_pattern": {"0.self_attn.q_proj": 3},
            "rank_pattern": {},
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))

    loras = {"a": random_lora(1, 2), "b": random_lora(2, 5, ("mlp.down_proj", "self_attn.q_proj"))}
    run = write_run(tmp_path / "run", loras, change=scaled)
    ids = torch.arange(20, 44)[None]
    want = run.model.load_model()(ids).logits
    base = run.start.load_model()
    unchanged = base(ids).logits.clone()
    live = PlainLora.of(run.model).put_on(base, "both")
    assert torch.allclose(live(ids).logits, want, atol=1e-4)
    assert (want - unchanged).abs().max() > 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "more than its two factors"),
        ({"peft_type": "LOHA"}, "of the kind LOHA"),
    ],
)
def test_what_is_no_plain_lora_says_why(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    def changed(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | change))

    run = write_run(tmp_path / "run", {"a": random_lora(1, 2)}, change=changed)
    with pytest.raises(StrategyError, match=reason):
        PlainLora.of(run.model)


def test_a_layer_that_is_saved_whole_is_no_plain_lora(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def more(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, file)

    run = write_run(tmp_path / "run", {"a": random_lora(1, 2)}, change=more)
    with pytest.raises(StrategyError, match=r"holds base_model.model.lm_head.weight"):
        PlainLora.of(run.model)
