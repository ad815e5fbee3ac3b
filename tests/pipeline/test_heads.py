"""Heads on backbones: started from a seed, on the same weights, in any number type."""

from pathlib import Path
from typing import Any

import pytest

from posttrain import LoRA, ModelRef
from posttrain.errors import ModelError
from posttrain.pipeline.heads import Labels, head_modules, with_head
from posttrain.pipeline.model_folder import head_of
from tests.stages.small_models import bert

LABELS = Labels(("bad", "odd", "good"))


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "causal_lm"),
        ({}, "causal_lm"),
        ({"architectures": ["BertForMaskedLM"]}, "masked_lm"),
        ({"architectures": ["BertModel"]}, "masked_lm"),
        ({"architectures": ["BertForPreTraining"]}, "masked_lm"),
        ({"architectures": ["BertForSequenceClassification"]}, "classifier"),
        ({"architectures": ["BertForTokenClassification"]}, "token_classifier"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "seq2seq_lm"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, None),
        ({"architectures": ["BartModel"], "is_encoder_decoder": True}, None),
        ({"architectures": ["BertForQuestionAnswering"]}, None),
        ({"architectures": ["GPT2LMHeadModel"]}, None),
    ],
)
def test_what_a_model_is_by_its_config(config: dict[str, Any], head: str | None) -> None:
    assert head_of(config) == head


def test_the_seed_decides_the_head_and_nothing_else(tmp_path: Path) -> None:
    import torch

    base = ModelRef.of_base(bert(tmp_path))
    torch.manual_seed(7)
    one = with_head(base.load_model(), "classifier", LABELS, seed=3).state_dict()
    torch.manual_seed(8)
    other = with_head(base.load_model(), "classifier", LABELS, seed=3).state_dict()
    third = with_head(base.load_model(), "classifier", LABELS, seed=4).state_dict()
    assert all(other[name].equal(value) for name, value in one.items())
    different = {name for name, value in one.items() if not third[name].equal(value)}
    assert different == {"classifier.weight", "bert.pooler.dense.weight"}
    own = base.load_model().state_dict()
    assert all(one[name].equal(own[name]) for name in own if name.startswith("bert."))
    assert 0.01 < float(one["classifier.weight"].std()) < 0.03  # initializer_range is 0.02
    assert float(one["classifier.bias"].abs().max()) == 0


def test_a_pooler_of_the_checkpoint_is_kept_and_one_that_is_not_read_goes(tmp_path: Path) -> None:
    base = ModelRef.of_base(bert(tmp_path, "BertForSequenceClassification"))
    loaded = base.load_model()
    pooler = loaded.bert.pooler.dense.weight.clone()
    model = with_head(loaded, "classifier", LABELS)
    assert model.bert.pooler.dense.weight.equal(pooler)
    assert head_modules(model) == ("classifier", "bert.pooler")
    tagger = with_head(base.load_model(), "token_classifier", LABELS)
    assert tagger.bert.pooler is None and head_modules(tagger) == ("classifier",)
    assert tagger.config.id2label == {0: "bad", 1: "odd", 2: "good"}


@pytest.mark.parametrize("head", ["reward", "classifier", "token_classifier"])
def test_a_float32_head_reads_a_bfloat16_backbone(tmp_path: Path, head: Any) -> None:
    """As on a GPU, where the backbone is loaded in bfloat16 and what is trained is float32."""
    import torch

    names = ("bert", "tiny-random") if head != "reward" else ("tiny-random",)
    for name in names:
        base = ModelRef.of_base(bert(tmp_path) if name == "bert" else name)
        model = with_head(base.load_model(dtype=torch.bfloat16), head, None if head == "reward" else LABELS)
        model = LoRA(r=2).wrap(model.requires_grad_(False), head, 0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        out = model(
            input_ids=torch.tensor([[4, 5, 6]]), attention_mask=torch.ones(1, 3, dtype=torch.long)
        ).logits
        assert out.dtype == torch.float32
        out.sum().backward()
        trained = [
            p for p in model.parameters() if p.requires_grad and p.grad is not None and p.grad.abs().max() > 0
        ]
        assert trained


def test_an_architecture_without_such_a_model_is_named() -> None:
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, pad_token_id=0,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    with pytest.raises(
        ModelError, match="transformers has no SequenceClassification for models of type 'marian'"
    ):
        with_head(MarianMTModel(config), "classifier", LABELS)
