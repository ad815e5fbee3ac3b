"""The modules that know TRL: what is read from TRL's source is what TRL has."""

import dataclasses

import pytest

from posttrain.stages.trl_api import _FIXED, _OURS, _SAMPLING, config_fields
from posttrain.stages.trl_trainers import CONFIGS, TrainerKind, config_class, fuse_head, trainer_class


@pytest.mark.parametrize("kind", CONFIGS)
def test_fields_read_from_source_are_the_dataclass_fields(kind: TrainerKind) -> None:
    real = {field.name for field in dataclasses.fields(config_class(kind))}
    assert set(config_fields(kind)) == real
    assert len(real) > 100


def test_refused_names_exist_in_some_config() -> None:
    every = {name for kind in CONFIGS for name in config_fields(kind)}
    assert not [name for name in (*_OURS, *_FIXED, *_SAMPLING) if name not in every]


def test_tokens_without_a_label_are_not_sent_through_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and its gradient are those of a plain head over all tokens; the head sees five tokens of eighteen."""
    import torch
    from trl.trainer import utils

    from posttrain.pipeline.model_ref import ModelRef

    trainer_class("sft")
    model = ModelRef.of_base("tiny-random").load_model()
    ids = torch.arange(30, 48).view(2, 9)
    labels = ids.clone()
    labels[0, :6] = labels[1, :7] = -100
    plain = torch.nn.functional.cross_entropy(
        model(ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    plain.backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    fuse_head(model)
    seen = []
    real = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction,
        "apply",
        lambda states, *rest: seen.append(len(states)) or real(states, *rest),
    )
    loss = model(ids, labels=labels, fused_lm_head=True).loss
    loss.backward()
    assert seen == [5]
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, gradient, atol=1e-6, rtol=1e-4)
