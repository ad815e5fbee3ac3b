import numpy as np
import pytest

from posttrain.data_formats import TokenTable

ROWS = {"input_ids": [[5, 6, 7], [8], [9, 10]], "labels": [[-100, 6, 7], [-100], [-100, 10]]}
PAIRS = {"prompt_ids": [[1, 2], [3]], "chosen_ids": [[4], [5, 6]], "rejected_ids": [[7, 8], [9]]}


def same(one, other):
    assert len(one) == len(other)
    assert sorted(one.columns) == sorted(other.columns)
    assert [one.row(i) for i in range(len(one))] == [other.row(i) for i in range(len(other))]
    assert {name: values.tolist() for name, values in one.numbers.items()} == {
        name: values.tolist() for name, values in other.numbers.items()
    }


def test_rows_lengths_and_counts():
    table = TokenTable.of(ROWS)
    assert len(table) == 3
    assert table.row(0) == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    assert table.lengths("input_ids").tolist() == [3, 1, 2]
    assert (table.tokens, table.trained_tokens) == (6, 3)
    assert table.columns["input_ids"].values.dtype == np.int32
    assert table.columns["input_ids"].offsets.dtype == np.int64
    for wrong in (3, -1):
        with pytest.raises(IndexError):
            table.row(wrong)


def test_of_pairs_the_answers_are_trained():
    table = TokenTable.of(PAIRS)
    assert (table.tokens, table.trained_tokens) == (9, 6)


def test_joined_pairs_carry_the_prompt_twice():
    joined = TokenTable.of(PAIRS, {"margin": np.array([0.5, 2], np.float32)}).joined()
    assert joined.row(0) == {"chosen_ids": [1, 2, 4], "rejected_ids": [1, 2, 7, 8]}
    assert joined.row(1) == {"chosen_ids": [3, 5, 6], "rejected_ids": [3, 9]}
    assert joined.numbers["margin"].tolist() == [0.5, 2]
    assert TokenTable.of(PAIRS).joined().numbers == {}


@pytest.mark.parametrize(
    "table",
    [
        TokenTable.of(ROWS),
        TokenTable.of(PAIRS),
        TokenTable.of(PAIRS, {"margin": np.array([0.5, 2], np.float32)}),
        TokenTable.of({"input_ids": []}),
    ],
    ids=["rows", "pairs", "margin", "empty"],
)
def test_a_saved_table_is_read_back_as_it_was(table, tmp_path):
    table.save(tmp_path / "new")
    same(TokenTable.load(tmp_path / "new"), table)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    parts = {f"{name}.{part}" for name in table.columns for part in ("values", "offsets")}
    assert names == {"table.json", *parts, *(f"{name}.number" for name in table.numbers)}


def test_a_loaded_table_stays_on_disk_until_rows_are_asked_for(tmp_path):
    TokenTable.of(ROWS).save(tmp_path)
    loaded = TokenTable.load(tmp_path)
    assert isinstance(loaded.columns["input_ids"].values, np.memmap)
    assert not isinstance(loaded.in_memory().columns["input_ids"].values, np.memmap)


def test_a_dataset_shows_the_same_rows_over_the_same_memory():
    table = TokenTable.of(PAIRS, {"margin": np.array([0.5, 2], np.float32)})
    dataset = table.to_dataset("abc")
    assert dataset._fingerprint == "abc"
    assert dataset.column_names == ["chosen_ids", "prompt_ids", "rejected_ids", "margin"]
    assert [dataset[i] for i in range(2)] == [{**table.row(i), "margin": m} for i, m in enumerate([0.5, 2])]
    flat = dataset.data.column("chosen_ids").chunk(0).values
    assert flat.buffers()[1].address == table.columns["chosen_ids"].values.ctypes.data


def test_a_dataset_of_a_loaded_table_can_be_shuffled_and_mapped(tmp_path):
    TokenTable.of(ROWS).save(tmp_path)
    dataset = TokenTable.load(tmp_path).to_dataset("abc")
    assert sorted(dataset.shuffle(seed=1)["input_ids"]) == sorted(ROWS["input_ids"])
    assert dataset.select([2])["labels"][0] == [-100, 10]
