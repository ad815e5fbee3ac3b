"""The forgetting check: exact against plain logits, 0 for an untouched model, and seen where perplexity sees nothing."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain import DPO, SFT, Full, LoRA, QLoRA
from posttrain.data_formats import TokenTable
from posttrain.pipeline.adapters import merge
from posttrain.pipeline.model_ref import ModelRef
from posttrain.stages.forgetting import FORGETTING
from posttrain.stages.forgetting.check import ForgettingCheck
from posttrain.stages.forgetting.outputs import distance, outputs_of, token_log_probs
from posttrain.stages.forgetting.probes import Probes, neutral_rows, read
from tests.stages.words import WORDS

ROWS = [[5, 6, 7, 8, 9, 10, 11], [300, 301], [40, 41, 42, 43, 44]]


@pytest.fixture(scope="module")
def start() -> ModelRef:
    return ModelRef.of_base("tiny-random")


def damaged(start: ModelRef, std: float) -> Any:
    """With noise on every weight of its layers."""
    model = start.load_model()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.dim() == 2:
            parameter.data += std * torch.randn(parameter.shape, generator=generator)
    return model


def test_distances_are_those_of_plain_logits(start: ModelRef) -> None:
    model, other = start.load_model(), damaged(start, 0.02)
    theirs, mine = outputs_of(model, ROWS, 0), outputs_of(other, ROWS, 0)
    for place, ids in enumerate(ROWS):
        found = distance(theirs, mine, place, ids)
        with torch.no_grad():
            p, q = (torch.log_softmax(m(torch.tensor([ids])).logits[0].double(), -1) for m in (model, other))
        assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-5)
        assert found.kl > 1e-3
        assert found.same == int((p.argmax(-1) == q.argmax(-1)).sum())
        assert found.places == len(ids)
        expected = [-sum(float(one[t, ids[t + 1]]) for t in range(len(ids) - 1)) for one in (p, q)]
        assert found.losses == pytest.approx(expected, abs=1e-3)


def test_log_probs_of_targets(start: ModelRef) -> None:
    model = start.load_model()
    found = token_log_probs(outputs_of(model, ROWS, 0), [(2, 1, 77), (0, 3, 78), (2, 1, 79)])
    with torch.no_grad():
        first, last = (torch.log_softmax(model(torch.tensor([ROWS[i]])).logits[0], -1) for i in (0, 2))
    expected = [float(last[1, 77]), float(first[3, 78]), float(last[1, 79])]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strategy", [LoRA(r=4), LoRA(r=4, variant="dora"), Full()], ids=str)
def test_an_untouched_model_has_forgotten_exactly_nothing(start: ModelRef, strategy: Any) -> None:
    _, tokenizer = start.load()
    model = strategy.wrap(start.load_model(), "policy", 0)
    if not strategy.capabilities.makes_base:
        model = merge(model)
    numbers, intervals = ForgettingCheck(model, tokenizer, None).against(start, start)
    exact = (
        strategy.capabilities.makes_base or strategy.variant is None
    )  # DoRA divides by a norm and multiplies by it
    assert numbers["neutral_kl_input"] == (0.0 if exact else pytest.approx(0.0, abs=1e-6))
    assert numbers["neutral_kl_base"] == numbers["neutral_kl_input"]
    assert numbers["neutral_agreement_input"] == 1.0
    assert numbers["probe_accuracy_before"] == numbers["probe_accuracy_after"]
    assert intervals["neutral_perplexity_change"].holds_zero
    assert not any(name.startswith("own_") for name in numbers)  # no row was held out


def test_damage_is_seen_where_perplexity_sees_none(start: ModelRef) -> None:
    """A random model is as bad as before, but it is another one."""
    _, tokenizer = start.load()
    held_out = TokenTable.of({"input_ids": ROWS, "labels": ROWS})
    check = ForgettingCheck(damaged(start, 0.01), tokenizer, held_out)
    numbers, intervals = check.against(start, start)
    assert {name.removesuffix("_after").removesuffix("_before") for name in numbers} == set(FORGETTING)
    assert intervals["neutral_perplexity_change"].holds_zero
    assert intervals["neutral_kl_input"].low > 0
    assert intervals["neutral_kl_input"].rows == 24 and intervals["own_kl_input"].rows == len(ROWS)
    assert numbers["own_agreement_input"] < 1


def test_each_stage_is_compared_with_its_input_and_with_the_first_model(words: Callable[..., Any]) -> None:
    both = list(itertools.product(WORDS[:6], repeat=2))
    chats = [{"prompt": f"{a} {b}", "completion": "river ."} for a, b in both]
    pairs = [{"prompt": f"{a} {b}", "chosen": "sun .", "rejected": "dog ."} for a, b in both]
    common = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-2}
    run = words([SFT(LoRA(r=2), data=chats, **common), DPO(LoRA(r=2), data=pairs, **common)]).run()
    first, second = run["sft"].metrics, run["dpo"].metrics
    assert first["neutral_kl_input"] == first["neutral_kl_base"] > 0
    assert second["neutral_kl_base"] != second["neutral_kl_input"]
    assert second["neutral_perplexity_before"] == pytest.approx(first["neutral_perplexity_after"], rel=1e-5)
    assert second["own_kl_input"] > 0
    assert run["dpo"].intervals["own_kl_base"].rows == 8


def test_a_four_bit_stage_is_compared_with_what_it_was_given(
    tiny: Callable[..., Any], rows: dict[str, list[dict[str, Any]]]
) -> None:
    stage = SFT(QLoRA(r=2), data=rows["chat"], max_steps=1, batch_size=2, learning_rate=1e-9)
    assert 0 <= tiny([stage]).run()["sft"].metrics["neutral_kl_input"] < 0.1


def test_the_packaged_rows_are_what_they_are_said_to_be(start: ModelRef) -> None:
    _, tokenizer = start.load()
    texts, probes = read("texts.jsonl"), read("probes.jsonl")
    assert len(texts) == len({line["text"] for line in texts}) == 24
    assert len(probes) == 42
    assert all(len({line["answer"], *line["others"]}) == 3 for line in probes)
    assert sum(len(ids) for ids in neutral_rows(tokenizer)) <= 24 * 40
    found = Probes.of(tokenizer)
    assert len(found.ends) == 42 and all(len(ends) == 3 for ends in found.ends)
    assert len(found.rows) < 42 * 2  # most ends are one token, and need the sentence alone


def test_probes_are_scored_by_the_whole_end(start: ModelRef) -> None:
    """The log-probability of each end by itself, from plain logits."""
    model, tokenizer = start.load()
    probes = Probes.of(tokenizer)
    right = probes.right(outputs_of(model, probes.rows, 0), 0)
    for place in (0, 24, 39):
        line, scores = read("probes.jsonl")[place], []
        for end in (line["answer"], *line["others"]):
            prompt = tokenizer(line["prompt"])["input_ids"]
            ids = [*prompt, *tokenizer(end, add_special_tokens=False)["input_ids"]]
            with torch.no_grad():
                plain = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
            scores.append(sum(float(plain[at - 1, ids[at]]) for at in range(len(prompt), len(ids))))
        assert math.isfinite(scores[0])
        assert right[place] == (scores[0] > max(scores[1:]))
