"""Every row of a stage's data is accounted for: trained on, held out, cut or dropped, in plan, record and print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, LoRA, Pipeline

Rows = dict[str, list[dict[str, Any]]]
lora = LoRA(r=2)


def documents(count: int, words: int) -> list[dict[str, Any]]:
    return [{"text": f"{i} " + "river " * words} for i in range(count)]


def account(stage: Any, tiny: Callable[..., Pipeline]) -> dict[str, Any]:
    """The run's account; the plan must say the same."""
    pipeline = tiny([stage])
    plan = pipeline.plan()[0]
    record = next(iter(pipeline.run()))
    counts = record.row_counts
    assert plan is not None
    assert counts == {"read": plan.rows_read, "trained_on": plan.rows, "held_out": plan.held_out,
                      "cut": plan.cut, "dropped": plan.dropped}  # fmt: skip
    assert record.data["lines"] == list(plan.notes)
    return counts | {"lines": record.data["lines"]}


def test_long_documents_are_split_on_both_sides(tiny: Callable[..., Pipeline]) -> None:
    """20 documents of about 82 tokens in windows of 32: 12 and 8 documents become 36 and 24 rows."""
    counts = account(CPT(lora, data=documents(20, 80), max_length=32, max_steps=1), tiny)
    assert (counts["read"], counts["trained_on"], counts["held_out"]) == (20, 36, 24)
    assert (counts["cut"], counts["dropped"]) == (20, 0)
    assert "held out: made 24 rows of 8, none dropped" in counts["lines"]


@pytest.mark.parametrize("overlong", ["drop", "truncate", "split"])
def test_the_stages_own_choice_holds_for_held_out_rows(
    tiny: Callable[..., Pipeline], rows: Rows, overlong: Any
) -> None:
    data, held_out = documents(24, 5), documents(4, 5) + documents(4, 60)
    stage = CPT(lora, data=data, eval_data=held_out, max_length=32, max_steps=1, overlong=overlong)
    counts = account(stage, tiny)
    assert (counts["read"], counts["trained_on"]) == (24, 24)
    expected = {"drop": (4, 0, 4), "truncate": (8, 4, 0), "split": (12, 4, 0)}
    assert (counts["held_out"], counts["cut"], counts["dropped"]) == expected[overlong]


def test_held_out_rows_that_do_not_fit_are_counted_where_training_ones_would_stop_the_run(
    tiny: Callable[..., Pipeline], rows: Rows
) -> None:
    def chat(words: int) -> list[dict[str, Any]]:
        return [{"messages": [{"role": "user", "content": f"Number {i}?"},
                              {"role": "assistant", "content": "river " * words}]} for i in range(6)]  # fmt: skip

    stage = SFT(lora, data=chat(3), eval_data=chat(3) + chat(90), max_length=64, max_steps=1)
    counts = account(stage, tiny)
    assert (counts["held_out"], counts["dropped"]) == (6, 6)
    assert "held out: kept 6 of 12 rows, 6 dropped (6 longer than max_length)" in counts["lines"]


def test_a_held_out_part_that_comes_to_nothing_is_said(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    stage = CPT(
        lora, data=documents(20, 5), eval_data=documents(3, 90), max_length=32, max_steps=1, overlong="drop"
    )
    counts = account(stage, tiny)
    assert (counts["held_out"], counts["dropped"]) == (0, 3)
    assert any("all 3 of them were dropped (3 longer than max_length)" in line for line in counts["lines"])


def test_too_few_rows_to_hold_any_out_are_said(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    counts = account(DPO(lora, data=rows["pairs"][:10], max_steps=1), tiny)
    assert (counts["read"], counts["trained_on"], counts["held_out"]) == (10, 10, 0)
    assert any("there are 10 different ones and it takes 16" in line for line in counts["lines"])


def test_a_damaged_table_is_made_again(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from posttrain.pipeline.base_models import find_base, shared_tokenizer
    from posttrain.stages.token_tables import load_tables

    base = find_base("tiny-random")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    request = SFT(lora, data=rows["chat"]).request
    first = load_tables(request, lambda: shared_tokenizer(base.folder), base.tokenizer_fingerprint)
    file = next(path for path in (tmp_path / "tables").rglob("*") if path.name == "input_ids.values")
    file.write_bytes(file.read_bytes()[:-1])
    again = load_tables(request, lambda: shared_tokenizer(base.folder), base.tokenizer_fingerprint)
    assert [again.train.row(i) for i in range(3)] == [first.train.row(i) for i in range(3)]
    assert list((tmp_path / "tables").glob("*.corrupt-*"))
