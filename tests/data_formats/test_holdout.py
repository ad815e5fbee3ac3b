import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data_formats import hold_out, read_examples
from posttrain.errors import SettingError


def texts(*names):
    return read_examples([{"text": name} for name in names], "text")


def names(part):
    return [document.text for document in part.examples]


def numbered(count):
    return texts(*(f"document {i}" for i in range(count)))


def test_every_row_is_on_exactly_one_side_in_its_order():
    train, held = hold_out(numbered(400))
    assert sorted(names(train) + names(held)) == sorted(names(numbered(400)))
    assert names(train) == [name for name in names(numbered(400)) if name not in names(held)]
    # 5 % of 400 is 20; the side of a row is its hash, so the number is near it, not equal to it
    assert 10 <= len(held) <= 30


def test_few_rows_are_all_trained():
    train, held = hold_out(numbered(15))
    assert (len(train), len(held)) == (15, 0)
    assert "no rows are held out, because there are 15 different ones and it takes 16" in train.notes[0]
    train, held = hold_out(numbered(16))
    assert (len(train), len(held)) == (8, 8)


def test_copies_of_a_few_rows_count_once():
    train, held = hold_out(texts(*(["a", "b", "c"] * 100)))
    assert (len(train), len(held)) == (300, 0)


@given(
    st.lists(st.sampled_from([f"text {i}" for i in range(60)]), min_size=16, max_size=120),
    st.integers(0, 120),
)
def test_appending_rows_moves_nothing_from_train_to_held_out(rows, cut):
    rows = [*(f"first {i}" for i in range(16)), *rows]
    before, _ = hold_out(texts(*rows[: 16 + cut]))
    train, held = hold_out(texts(*rows))
    assert set(names(train)).isdisjoint(names(held))
    assert set(names(before)) <= set(names(train))
    assert len(held) >= 8


def test_with_enough_rows_no_row_changes_side_when_rows_are_appended():
    train, held = hold_out(numbered(400))
    more_train, more_held = hold_out(numbered(800))
    assert set(names(train)) <= set(names(more_train))
    assert set(names(held)) <= set(names(more_held))


def test_the_side_does_not_depend_on_the_place():
    _, held = hold_out(numbered(100))
    _, reversed_held = hold_out(texts(*names(numbered(100))[::-1]))
    assert names(held) == names(reversed_held)[::-1]


def test_answers_to_one_prompt_stay_together():
    rows = [{"prompt": f"p{i % 40}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(200)]
    train, held = hold_out(read_examples(rows, "preference"))
    assert held.examples
    assert {pair.prompt for pair in train.examples}.isdisjoint(pair.prompt for pair in held.examples)


def test_a_share_of_zero_holds_nothing_out_and_a_wrong_one_is_refused():
    assert len(hold_out(numbered(100), share=0)[1]) == 0
    for share in (-0.1, 0.6):
        with pytest.raises(SettingError, match=r"between 0 and 0\.5"):
            hold_out(numbered(100), share=share)
