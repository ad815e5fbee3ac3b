"""Answers are drawn from the policy's own distribution, each from its own numbers, and end at a stop token."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.stages.online.sampling import TransformersSampler, row_seed, stop_ids


@pytest.fixture(scope="module")
def model(words_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(words_model).eval()


def sampler(model: Any, tokens: int = 6, temperature: float = 1.0) -> TransformersSampler:
    return TransformersSampler(model, 0, (1,), tokens, temperature)


def test_an_answer_depends_on_its_seed_alone(model: Any) -> None:
    prompts = [[2, 7, 3], [2, 8, 9, 10, 3], [3], [2, 11, 3]]
    seeds = [5, 6, 7, 8]
    together = sampler(model).sample(prompts, seeds)
    alone = [sampler(model).sample([p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone
    assert together == sampler(model).sample(prompts[::-1], seeds[::-1])[::-1]
    assert together != sampler(model).sample(prompts, [9, 10, 11, 12])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_come_with_the_policys_probabilities(model: Any, temperature: float) -> None:
    """Chi-square of 4000 first tokens against the softmax; 0.1 % of correct samplers would fail, and the seed is fixed."""
    prompt, count = [2, 7, 3], 4000
    answers = sampler(model, 1, temperature).sample(
        [prompt] * count, [row_seed("draw", i) for i in range(count)]
    )
    seen = torch.bincount(torch.tensor([a.ids[0] for a in answers]), minlength=model.config.vocab_size)
    with torch.no_grad():
        expected = count * torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, -1)
    common = expected >= 5
    chi_square = float((((seen - expected) ** 2) / expected)[common].sum())
    freedom = int(common.sum()) - 1
    assert chi_square < freedom + 3.1 * (2 * freedom) ** 0.5 + 4


def test_an_answer_ends_with_its_stop_token_or_is_cut(model: Any) -> None:
    answers = sampler(model, 6).sample([[2, 7, 3]] * 200, list(range(200)))
    stopped = [a for a in answers if a.stopped]
    assert 5 < len(stopped) < 150
    for answer in answers:
        assert (1 in answer.ids) == answer.stopped
        assert answer.ids.index(1) == len(answer.ids) - 1 if answer.stopped else len(answer.ids) == 6


def test_temperature_0_is_greedy(model: Any) -> None:
    (answer,) = sampler(model, 4, 0.0).sample([[2, 7, 3]], [0])
    ids = [2, 7, 3]
    for token in answer.ids:
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_a_models_own_generation_config_warps_nothing(words_model: Path, model: Any) -> None:
    """top_k=1 in a checkpoint's generation config would make every rollout greedy."""
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(words_model).eval()
    other.generation_config.update(do_sample=True, top_k=1, repetition_penalty=5.0, temperature=0.1)
    prompts, seeds = [[2, 7, 3]] * 20, list(range(20))
    assert sampler(other).sample(prompts, seeds) == sampler(model).sample(prompts, seeds)


def test_stop_tokens_of_tokenizer_and_generation_config(words_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(words_model),
        AutoTokenizer.from_pretrained(words_model),
    )
    assert stop_ids(model, tokenizer) == (1,)
    model.generation_config.eos_token_id = [1, 3]
    assert stop_ids(model, tokenizer) == (1, 3)
    model.generation_config.eos_token_id = None
    assert stop_ids(model, tokenizer) == (1,)
