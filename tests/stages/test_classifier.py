"""Text classification on encoders and on causal models."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import (
    BOFT,
    IA3,
    OFT,
    SFT,
    AdaLoRA,
    Adapter,
    Classifier,
    Data,
    Freeze,
    Full,
    GradualUnfreeze,
    LNTuning,
    LoHa,
    LoKr,
    LoRA,
    ModelRef,
    Pipeline,
    QLoRA,
    RewardModel,
    VeRA,
)
from posttrain.data_formats import classification
from posttrain.errors import (
    EmptyStageDataError,
    ModelError,
    NothingTrainedError,
    PipelineError,
    RowError,
    RunInterrupted,
    SettingError,
    StrategyError,
)
from tests.stages.small_models import bert
from tests.stages.words import WORDS

Rows = list[dict[str, Any]]
CONSTANT = {"lr_scheduler_type": "constant"}
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-3}


def label_of(words: tuple[str, ...]) -> str:
    return "water" if "river" in words else "sky" if "moon" in words else "land"


ROWS: Rows = [
    {"text": " ".join(words), "label": label_of(words)} for words in itertools.product(WORDS[:8], repeat=3)
]
SEVERAL: Rows = [
    {"text": row["text"], "labels": [name for name, word in (("water", "river"), ("sky", "moon")) if word in row["text"]]}
    for row in ROWS
]  # fmt: skip


def test_an_encoder_learns_and_keeps_the_names(on: Callable[..., Pipeline], bert_model: Path) -> None:
    """Held-out accuracy, and the whole way of a text: transformers' own loss on the saved model is ours."""
    import torch

    stage = Classifier(
        Full(), data=ROWS, eval_data=ROWS[5::11], learning_rate=3e-3, max_steps=80, batch_size=32,
        trainer_args=CONSTANT,
    )  # fmt: skip
    run = on(bert_model, [stage]).run()
    record = run["classifier"]
    assert record.metrics["accuracy_before"] < 0.6 < 0.9 < record.metrics["accuracy_after"]
    assert record.metrics["macro_f1_after"] > 0.9
    assert record.data["lines"][-2] == "rows by label: land 216, sky 127, water 169"
    assert run.model == run.start  # the policy is not touched

    again = Pipeline.load(run.folder).classifier
    assert again is not None
    reference = ModelRef.from_dict(json.loads(json.dumps(again.as_dict(run.folder))), run.folder)
    model, tokenizer = reference.load()
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.id2label == {0: "land", 1: "sky", 2: "water"}
    assert model.config.label2id == {"land": 0, "sky": 1, "water": 2}
    losses, right = [], 0
    for row in ROWS[5::11]:
        label = torch.tensor([model.config.label2id[row["label"]]])
        with torch.no_grad():
            out = model(**tokenizer(row["text"], return_tensors="pt"), labels=label)
        losses.append(float(out.loss))
        right += model.config.id2label[int(out.logits.argmax())] == row["label"]
    assert sum(losses) / len(losses) == pytest.approx(record.metrics["loss_after"], abs=1e-5)
    assert right / len(losses) == record.metrics["accuracy_after"]

    (written,) = run.folder.rglob("by_label.json")
    kept = json.loads(written.read_text())
    table = kept["after"]["confusion"]
    assert table["columns"] == list(table["rows"]) == ["land", "sky", "water"]
    assert sum(map(sum, table["rows"].values())) == len(losses)
    diagonal = sum(row[i] for i, row in enumerate(table["rows"].values()))
    assert diagonal / len(losses) == record.metrics["accuracy_after"]
    assert kept["before"]["accuracy"] == record.metrics["accuracy_before"]


def test_a_causal_model_learns_with_an_adapter(on: Callable[..., Pipeline], words_model: Path) -> None:
    stage = Classifier(
        LoRA(r=8), data=ROWS, learning_rate=1e-2, max_steps=80, batch_size=32, trainer_args=CONSTANT
    )
    run = on(words_model, [stage]).run()
    assert run["classifier"].metrics["accuracy_after"] > 0.9
    assert run["classifier"].metrics["accuracy_before"] < 0.6
    assert run.classifier is not None
    model, _ = run.classifier.load()
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.id2label == {0: "land", 1: "sky", 2: "water"}
    kept = json.loads((run.classifier.adapters[-1].folder / "labels.json").read_text())
    assert kept == {"names": ["land", "sky", "water"], "several": False}


@pytest.mark.parametrize("strategy", [Full(), LoRA(r=8)], ids=["full", "lora"])
def test_several_labels_for_each_text(on: Callable[..., Pipeline], words_model: Path, strategy: Any) -> None:
    import torch

    stage = Classifier(
        strategy, data=SEVERAL, eval_data=SEVERAL[5::11], learning_rate=5e-3, max_steps=100, batch_size=32,
        trainer_args=CONSTANT,
    )  # fmt: skip
    run = on(words_model, [stage]).run()
    record = run["classifier"]
    assert record.metrics["accuracy_after"] > 0.9 > 0.6 > record.metrics["accuracy_before"]
    assert record.metrics["micro_f1_after"] > 0.9
    assert run.classifier is not None
    model, tokenizer = run.classifier.load()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "sky", 1: "water"}
    losses = []
    for row in SEVERAL[5::11]:
        gold = torch.tensor([[float(name in row["labels"]) for name in ("sky", "water")]])
        ids = torch.tensor([[*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=gold).loss))
    assert sum(losses) / len(losses) == pytest.approx(record.metrics["loss_after"], abs=1e-5)
    kept = json.loads(next(run.folder.rglob("by_label.json")).read_text())["after"]["labels"]
    assert kept["water"]["gold"] == sum("water" in row["labels"] for row in SEVERAL[5::11])


STRATEGIES: dict[str, Any] = {
    "full": Full(), "freeze": Freeze(layers=1), "lora": LoRA(r=4), "dora": LoRA(r=4, variant="dora"),
    "named": LoRA(r=4, target_modules=("query", "value")), "qlora": QLoRA(r=4), "adalora": AdaLoRA(r=4, target_r=2),
    "ia3": IA3(), "vera": VeRA(r=16), "oft": OFT(block_size=8), "boft": BOFT(block_size=4), "loha": LoHa(r=2),
    "lokr": LoKr(r=2), "lntuning": LNTuning(), "adapter": Adapter(bottleneck=4), "pissa": LoRA(r=4, init="pissa"),
    "gradual": GradualUnfreeze(), "llrd": Full(llrd=0.8),
    "preset": LoRA.preset("classification"),
}  # fmt: skip
FAST = ("full", "lora", "qlora", "adapter")  # the others run with the slow tests
BASES = ("full", "freeze", "gradual", "llrd")


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in STRATEGIES]
)
def test_every_strategy_trains_and_saves_the_whole_head(
    on: Callable[..., Pipeline], bert_model: Path, name: str
) -> None:
    strategy = STRATEGIES[name]
    pipeline = on(
        bert_model, [Classifier(strategy, data=ROWS, max_steps=10, batch_size=8, learning_rate=3e-3)]
    )
    (plan,) = pipeline.plan()
    run = pipeline.run()
    proofs = run["classifier"].proofs
    assert proofs["read_back_difference"] < 1e-4
    assert proofs.get("merged_difference", 0) < 1e-3
    assert plan is not None and run.classifier is not None
    model, _ = run.classifier.load()
    from posttrain.pipeline.heads import Labels, head_modules, with_head

    fresh = with_head(
        ModelRef.of_base(bert_model).load_model(), "classifier", Labels(("land", "sky", "water"))
    )
    assert head_modules(fresh) == ("classifier", "bert.pooler")
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    after = {
        key.removeprefix("base_model.model.").replace(".modules_to_save.default", ""): value
        for key, value in model.state_dict().items()
        if "original_module" not in key  # an adapter that stays one has its trained head beside the base's
    }
    changed = {key for key, value in after.items() if key in before and not before[key].equal(value)}
    assert {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight"} <= changed
    merged = not any(hasattr(module, "modules_to_save") for module in model.modules())
    assert merged == strategy.capabilities.mergeable
    if name not in BASES:
        assert not [key for key in changed if "embeddings" in key and "LayerNorm" not in key]
        live = strategy.wrap(strategy.prepare_base(fresh.requires_grad_(False)), "classifier", 0)
    else:
        live = strategy.wrap(fresh, "classifier", 0)
        assert (name != "freeze") == ("bert.embeddings.position_embeddings.weight" in changed)
    assert plan.trainable_parameters == sum(p.numel() for p in live.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "kind",
    ["RobertaForMaskedLM", "ElectraForPreTraining", "DebertaV2ForMaskedLM", "AlbertForMaskedLM", "BertModel",
     "BertForSequenceClassification", "BertForTokenClassification", "ModernBertForMaskedLM"],
)  # fmt: skip
def test_every_sort_of_encoder(on: Callable[..., Pipeline], tmp_path: Path, kind: str) -> None:
    base = bert(tmp_path / "base", kind)
    first = on(base, [Classifier(LoRA(r=4), data=ROWS, **QUICK)]).run()
    assert first["classifier"].proofs["merged_difference"] < 1e-3
    assert first.classifier is not None
    model, _ = first.classifier.load()
    assert type(model).__name__.endswith("ForSequenceClassification")
    assert model.config.id2label[2] == "water"
    full = on(base, [Classifier(Full(), data=ROWS, **QUICK)], "full").run()
    assert full["classifier"].proofs["read_back_difference"] < 1e-4


def test_accumulated_batches_are_one_batch(on: Callable[..., Pipeline], words_model: Path) -> None:
    """transformers' own classification losses are too large by the number of accumulated batches."""
    common: dict[str, Any] = {"data": ROWS[::3], "max_steps": 4, "learning_rate": 1e-3}
    whole = on(words_model, [Classifier(Full(), batch_size=8, **common)], "whole").run()
    parts = on(
        words_model, [Classifier(Full(), batch_size=2, gradient_accumulation=4, **common)], "parts"
    ).run()
    for one, other in zip(whole["classifier"].history, parts["classifier"].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_after_sft_it_stands_on_the_tuned_weights(on: Callable[..., Pipeline], words_model: Path) -> None:
    chats = [{"prompt": f"{a} {b}", "completion": "sun ."} for a, b in itertools.product(WORDS[:6], repeat=2)]
    run = on(
        words_model, [SFT(LoRA(r=4), data=chats, **QUICK), Classifier(LoRA(r=4), data=ROWS, **QUICK)]
    ).run()
    assert run.classifier is not None
    assert run.classifier.adapters[0] == run.model.adapters[0]
    assert len(run.model.adapters) == 1 and run.model.head == "causal_lm"
    tuned, _ = run.model.load()
    assert type(tuned).__name__ == "LlamaForCausalLM"


def test_stopped_and_gone_on_is_the_same_to_the_bit(
    on: Callable[..., Pipeline], bert_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages import callbacks

    stages = [
        Classifier(
            LoRA(r=4, dropout=0.1), data=ROWS, max_steps=6, learning_rate=1e-3, trainer_args={"save_steps": 2}
        )
    ]
    whole = on(bert_model, stages, "whole").run()
    real = callbacks.Stop.on_step_end

    def stop_after_three(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 3:
            self._stop.requested = "SIGTERM"
        return real(self, args, state, control, **more)

    monkeypatch.setattr(callbacks.Stop, "on_step_end", stop_after_three)
    with pytest.raises(RunInterrupted, match="in stage classifier after step 3"):
        on(bert_model, stages, "stopped").run()
    monkeypatch.undo()
    again = on(bert_model, stages, "stopped").run()
    one, other = (next(run.folder.rglob("adapter_model.safetensors")).read_bytes() for run in (whole, again))
    assert one == other
    assert whole["classifier"].metrics == again["classifier"].metrics

    monkeypatch.setattr(Classifier, "run", lambda *_: pytest.fail("an unchanged stage ran again"))
    assert on(bert_model, stages, "stopped").run()["classifier"].metrics == whole["classifier"].metrics


def test_integers_get_the_names_that_are_given(on: Callable[..., Pipeline], bert_model: Path) -> None:
    rows = [{"text": row["text"], "label": int(row["label"] == "water")} for row in ROWS[::4]]
    data = Data(rows, format=classification(labels=["dry", "wet"]))
    run = on(bert_model, [Classifier(LoRA(r=2), data=data, **QUICK)]).run()
    assert run.classifier is not None
    assert run.classifier.load()[0].config.id2label == {0: "dry", 1: "wet"}


def test_checkpointed_activations_change_nothing(on: Callable[..., Pipeline], bert_model: Path) -> None:
    plain = on(bert_model, [Classifier(LoRA(r=4), data=ROWS, **QUICK)], "plain").run()
    given = {"gradient_checkpointing": True}
    spared = on(bert_model, [Classifier(LoRA(r=4), data=ROWS, trainer_args=given, **QUICK)], "spared").run()
    assert spared["classifier"].proofs["parameters_moved"] == plain["classifier"].proofs["parameters_moved"]
    for one, other in zip(plain["classifier"].history, spared["classifier"].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_what_is_refused_before_anything_is_loaded(
    on: Callable[..., Pipeline], bert_model: Path, t5_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=r"Classifier.*data"):
        Classifier(LoRA())
    with pytest.raises(SettingError, match="handover"):
        Classifier(LoRA(), data=ROWS, handover="continue")
    with pytest.raises(SettingError, match="overlong"):
        Classifier(LoRA(), data=ROWS, overlong="split")
    with pytest.raises(SettingError, match="posttrain sets remove_unused_columns itself"):
        Classifier(LoRA(), data=ROWS, trainer_args={"remove_unused_columns": True})
    with pytest.raises(SettingError, match="is refused by transformers"):
        on(bert_model, [Classifier(LoRA(), data=ROWS, trainer_args={"optim": "adamm"})]).plan()
    for stage in (SFT(LoRA(), data=ROWS), RewardModel(LoRA())):
        with pytest.raises(ModelError, match=r"is an encoder; train that with Classifier or TokenClassifier"):
            on(bert_model, [stage])
    with pytest.raises(ModelError, match="is a sequence-to-sequence model; train that with Seq2Seq"):
        on(t5_model, [Classifier(LoRA(), data=ROWS)])
    with pytest.raises(StrategyError, match="'q_proj'; it has dense, key, query, value"):
        on(bert_model, [Classifier(LoRA(target_modules=("q_proj",)), data=ROWS)]).plan()
    with pytest.raises(SettingError, match="classifier is the head"):
        LoRA(target_modules=("classifier",))
    electra = bert(tmp_path / "electra", "ElectraForMaskedLM")
    with pytest.raises(StrategyError, match="IA3: PEFT has no table of layers for a model of type 'electra'"):
        on(electra, [Classifier(IA3(), data=ROWS)]).plan()


def test_bad_labels_are_refused(on: Callable[..., Pipeline], bert_model: Path) -> None:
    one = [{"text": row["text"], "label": "same"} for row in ROWS[:40]]
    with pytest.raises(
        EmptyStageDataError, match="all have the label 'same', so there is nothing to tell apart"
    ):
        on(bert_model, [Classifier(LoRA(), data=one)]).plan()
    other = [{"text": "a", "label": "fire"}]
    with pytest.raises(RowError, match="is 'fire', which is not among the labels"):
        on(bert_model, [Classifier(LoRA(), data=ROWS[:100], eval_data=other)]).plan()
    none = [{"text": row["text"], "labels": []} for row in ROWS[:40]]
    with pytest.raises(RowError, match="is an empty list, as in all rows"):
        on(bert_model, [Classifier(LoRA(), data=none)]).plan()
    long = [{"text": "river " * (60 + i), "label": i % 2} for i in range(40)]
    with pytest.raises(SettingError, match="and the model has 64 positions"):
        on(bert_model, [Classifier(LoRA(), data=long)]).plan()


def test_a_classifier_is_no_start_of_a_pipeline(on: Callable[..., Pipeline], bert_model: Path) -> None:
    run = on(bert_model, [Classifier(LoRA(r=2), data=ROWS, **QUICK)]).run()
    assert run.classifier is not None
    with pytest.raises(PipelineError, match="the given ModelRef is a reward model or classifier"):
        Pipeline([Classifier(LoRA(r=2), data=ROWS)], model=run.classifier)


def test_a_head_that_stays_as_it_was_is_noticed(
    on: Callable[..., Pipeline], bert_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages import trl_session

    real = trl_session.make_trainer

    def with_a_dead_optimizer(*args: Any, **settings: Any) -> Any:
        trainer = real(*args, **settings)
        trainer.create_optimizer()
        trainer.optimizer.step = lambda *_, **__: None
        return trainer

    monkeypatch.setattr(trl_session, "make_trainer", with_a_dead_optimizer)
    with pytest.raises(NothingTrainedError, match="trainable parameters has changed"):
        on(bert_model, [Classifier(LoRA(r=2), data=ROWS, **QUICK)]).run()
