"""Held-out answers are decoded with the adapters inside the weights, where that changes nothing but the time."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from posttrain import BOFT, IA3, OFT, AdaLoRA, Adapter, Full, LNTuning, LoHa, LoKr, LoRA, VeRA
from posttrain.pipeline.model_ref import ModelRef
from posttrain.stages import merging
from posttrain.stages.evaluation import continuations
from posttrain.stages.machine import Machine

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4]]
MERGED: dict[str, Any] = {
    "lora": LoRA(r=4), "dora": LoRA(r=4, variant="dora"), "adalora": AdaLoRA(r=4, target_r=2), "ia3": IA3(), "oft": OFT(),
    "boft": BOFT(), "loha": LoHa(), "lokr": LoKr(), "vera": VeRA(), "lntuning": LNTuning(),
}  # fmt: skip


def moved(strategy: Any) -> Any:
    """The tiny model with a strategy whose trained parameters are not where they begin."""
    model = strategy.wrap(ModelRef.of_base("tiny-random").load()[0], "policy", 0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were merged."""
    seen: list[Any] = []
    real = merging.merged

    @contextlib.contextmanager
    def spy(model: Any) -> Iterator[None]:
        seen.append(model)
        with real(model):
            yield

    monkeypatch.setattr(merging, "merged", spy)
    return seen


@pytest.mark.parametrize("strategy", MERGED.values(), ids=MERGED)
def test_the_answers_are_the_same_and_the_weights_come_back(strategy: Any, merges: list[Any]) -> None:
    model = moved(strategy)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    said = continuations(model, PROMPTS, 16, 0, [1])
    assert merges == [model]
    with torch.no_grad():
        plain = model.generate(
            input_ids=torch.tensor(PROMPTS[1:]), max_new_tokens=16, do_sample=False, pad_token_id=0, eos_token_id=[1]
        )  # fmt: skip
    assert said[1] == [token for token in plain[0, len(PROMPTS[1]) :].tolist() if token != 1]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("strategy", [Adapter(), Full()], ids=["adapter", "full"])
def test_what_cannot_be_merged_is_left_alone(strategy: Any, merges: list[Any]) -> None:
    continuations(moved(strategy), PROMPTS, 16, 0, [1])
    assert merges == []


def test_a_few_tokens_are_not_worth_it(merges: list[Any]) -> None:
    continuations(moved(LoRA(r=4)), PROMPTS, 15, 0, [1])
    assert merges == []


def test_a_copy_that_may_not_fit_is_not_made(merges: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = moved(LoRA(r=4))
    machine = Machine(on_gpu=False, bf16=False, memory_bytes=1_000_000)
    monkeypatch.setattr(merging, "this_machine", lambda: machine)
    continuations(model, PROMPTS, 16, 0, [1])
    assert merges == []


def test_adapters_that_are_off_stay_off(merges: list[Any]) -> None:
    model = moved(LoRA(r=4))
    bare = ModelRef.of_base("tiny-random").load()[0]
    with model.disable_adapter():
        said = continuations(model, PROMPTS, 16, 0, [1])
    assert merges == []
    assert said == continuations(bare, PROMPTS, 16, 0, [1])
