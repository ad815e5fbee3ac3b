"""Named entities: spans of characters in, tags of tokens trained, spans measured."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import IA3, SFT, AdaLoRA, Full, LoRA, ModelRef, Pipeline, QLoRA, TokenClassifier
from posttrain.errors import EmptyStageDataError, ModelError, RowError, SettingError
from tests.stages.small_models import bert
from tests.stages.words import WORDS

Rows = list[dict[str, Any]]
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-3}
NAMED = {"river": "water", "moon": "sky"}
TAGS = ["O", "B-sky", "I-sky", "B-water", "I-water"]


def row_of(words: tuple[str, ...]) -> dict[str, Any]:
    """A named word and, right behind one, an "old" belong to its span."""
    text, spans = "", list[dict[str, Any]]()
    for i, word in enumerate(words):
        start = len(text) + (i > 0)
        text += (" " if i else "") + word
        if word in NAMED:
            spans.append({"start": start, "end": len(text), "label": NAMED[word]})
        elif word == "old" and i and words[i - 1] in NAMED:
            spans[-1]["end"] = len(text)
    return {"text": text, "spans": spans}


ROWS: Rows = [row_of(words) for words in itertools.product([*WORDS[:7], "old"], repeat=3)]


def names_in(model: Any, tokenizer: Any, text: str) -> set[tuple[int, int, str]]:
    """(start, end, label) as somebody would read them off who knows nothing of this library."""
    import torch

    encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        tags = [model.config.id2label[i] for i in model(**encoded).logits[0].argmax(-1).tolist()]
    found: list[list[Any]] = []
    before = "O"
    for (start, end), tag in zip(offsets[1:-1], tags[1:-1], strict=True):
        if tag == f"I-{before[2:]}":
            found[-1][1] = end
        elif tag != "O":  # an I- that goes on with nothing begins a span, as conlleval has it
            found.append([start, end, tag[2:]])
        before = tag
    return {(start, end, label) for start, end, label in found}


@pytest.mark.parametrize(("strategy", "rate"), [(Full(), 3e-3), (LoRA(r=8), 1e-2)], ids=["full", "lora"])
def test_an_encoder_learns_to_name_spans(
    on: Callable[..., Pipeline], bert_model: Path, strategy: Any, rate: float
) -> None:
    held_out = ROWS[5::11]
    stage = TokenClassifier(
        strategy, data=ROWS, eval_data=held_out, learning_rate=rate, max_steps=60, batch_size=32,
        trainer_args={"lr_scheduler_type": "constant"},
    )  # fmt: skip
    run = on(bert_model, [stage]).run()
    record = run["token_classifier"]
    assert record.metrics["f1_before"] < 0.6 < 0.9 < record.metrics["f1_after"]
    assert record.proofs["read_back_difference"] < 1e-4
    again = Pipeline.load(run.folder).token_classifier
    assert again is not None
    reference = ModelRef.from_dict(json.loads(json.dumps(again.as_dict(run.folder))), run.folder)
    model, tokenizer = reference.load()
    assert [model.config.id2label[i] for i in range(5)] == TAGS
    assert model.config.label2id == {name: i for i, name in enumerate(TAGS)}
    gold = [{(one["start"], one["end"], one["label"]) for one in row["spans"]} for row in held_out]
    said = [names_in(model, tokenizer, row["text"]) for row in held_out]
    right = sum(len(a & b) for a, b in zip(gold, said, strict=True))
    f1 = 2 * right / (sum(map(len, gold)) + sum(map(len, said)))
    assert record.metrics["f1_after"] == pytest.approx(f1)
    kept = json.loads(next(run.folder.rglob("by_label.json")).read_text())
    assert kept["after"]["labels"]["water"]["gold"] == sum(
        one["label"] == "water" for row in held_out for one in row["spans"]
    )


def test_the_loss_is_transformers_own(on: Callable[..., Pipeline], bert_model: Path) -> None:
    """Per tagged token, special tokens left out: rows of one length, so that its mean of means is ours."""
    import torch

    rows = ROWS[5::11]
    run = on(bert_model, [TokenClassifier(Full(), data=ROWS, eval_data=rows, **QUICK)]).run()
    assert run.token_classifier is not None
    model, tokenizer = run.token_classifier.load()
    losses = []
    for row in rows:
        words = row["text"].split()
        named = [
            next((one for one in row["spans"] if one["start"] <= row["text"].index(w) < one["end"]), None)
            for w in words
        ]
        if len(set(words)) < 3:
            continue
        tags = []
        for i, one in enumerate(named):
            inside = one is not None and i and named[i - 1] is one
            tags.append(0 if one is None else TAGS.index(("I-" if inside else "B-") + one["label"]))
        with torch.no_grad():
            out = model(
                **tokenizer(row["text"], return_tensors="pt"), labels=torch.tensor([[-100, *tags, -100]])
            )
        losses.append(float(out.loss))
    different = [row for row in rows if len(set(row["text"].split())) == 3]
    again = on(bert_model, [TokenClassifier(Full(), data=ROWS, eval_data=different, **QUICK)], "again").run()
    assert again["token_classifier"].metrics["loss_after"] == pytest.approx(
        sum(losses) / len(losses), abs=1e-5
    )


@pytest.mark.parametrize(
    "strategy", [QLoRA(r=4), IA3(), AdaLoRA(r=4, target_r=2)], ids=["qlora", "ia3", "adalora"]
)
def test_other_strategies_on_causal_models(
    on: Callable[..., Pipeline], words_model: Path, strategy: Any
) -> None:
    pipeline = on(
        words_model, [TokenClassifier(strategy, data=ROWS, max_steps=10, batch_size=8, learning_rate=3e-3)]
    )
    (plan,) = pipeline.plan()
    run = pipeline.run()
    assert run["token_classifier"].proofs["read_back_difference"] < 1e-3
    assert run.token_classifier is not None and plan is not None
    model, _ = run.token_classifier.load()
    assert type(model).__name__ == "LlamaForTokenClassification"
    assert (
        float(model.score.bias.abs().max()) > 0
    )  # a fresh head starts with zeros there: it was trained and saved


def test_borders_inside_words_are_counted(on: Callable[..., Pipeline], bert_model: Path) -> None:
    rows = [*ROWS, *({"text": f"{word} boating", "spans": [{"start": len(word) + 2, "end": len(word) + 6, "label": "water"}]}
                     for word in WORDS[:10])]  # fmt: skip
    run = on(bert_model, [TokenClassifier(LoRA(r=2), data=rows, eval_data=ROWS[:20], **QUICK)]).run()
    lines = run["token_classifier"].data["lines"]
    assert any(line.startswith("10 rows have spans whose borders fall inside a token") for line in lines), (
        lines
    )
    assert any(line.startswith("spans by label: sky ") for line in lines)


def test_rows_that_are_too_long_are_cut_with_their_tags(
    on: Callable[..., Pipeline], bert_model: Path
) -> None:
    rows = [{"text": f"{row['text']} " + "the " * 30, "spans": row["spans"]} for row in ROWS[::4]]
    stage = TokenClassifier(LoRA(r=2), data=rows, max_length=16, overlong="truncate", **QUICK)
    data = on(bert_model, [stage]).run()["token_classifier"].data
    assert data["rows_cut"] == data["rows_kept"] == len(rows) - data["rows_held_out"]
    assert data["tokens"] == 16 * data["rows_kept"] and data["trained_tokens"] == 14 * data["rows_kept"]


def test_what_is_refused(
    on: Callable[..., Pipeline], bert_model: Path, t5_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=r"TokenClassifier.*data"):
        TokenClassifier(LoRA())
    empty = [{"text": row["text"], "spans": []} for row in ROWS]
    with pytest.raises(RowError, match="is an empty list, as in all rows"):
        on(bert_model, [TokenClassifier(LoRA(), data=empty)]).plan()
    other = [{"text": "sun", "spans": [{"start": 0, "end": 3, "label": "fire"}]}]
    with pytest.raises(RowError, match="is 'fire', which is not among the labels"):
        on(bert_model, [TokenClassifier(LoRA(), data=ROWS, eval_data=other)]).plan()
    nowhere = [{"text": "the sun", "spans": [{"start": 9, "end": 12, "label": "sky"}]}, *ROWS]
    with pytest.raises(RowError, match="the text has 7 characters"):
        on(bert_model, [TokenClassifier(LoRA(), data=nowhere)]).plan()
    with pytest.raises(EmptyStageDataError, match="nothing is left to train on"):
        on(bert_model, [TokenClassifier(LoRA(), data=ROWS, max_length=2, overlong="drop")]).plan()
    with pytest.raises(ModelError, match="train that with Seq2Seq"):
        on(t5_model, [TokenClassifier(LoRA(), data=ROWS)])
    tagger = bert(tmp_path / "tagger", "BertForTokenClassification")
    with pytest.raises(
        ModelError, match=r"Stage 1 \(sft\) starts from a causal language model, and .* is a token classifier"
    ):
        on(tagger, [SFT(LoRA())])
