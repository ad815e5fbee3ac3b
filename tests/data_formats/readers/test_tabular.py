"""Tables: CSV, Parquet, Arrow and datasets.Dataset."""

import csv
import io
import random
from datetime import date, datetime
from math import isnan

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from posttrain.data_formats import digest
from posttrain.data_formats.readers import csv_files
from posttrain.data_formats.readers.file_types import Broken
from posttrain.data_formats.readers.sources import records
from posttrain.errors import DataFileError


def read(source):
    return [(record.place, record.value) for record in records(source)]


def values(source):
    return [record.value for record in records(source)]


def refused(source):
    with pytest.raises(DataFileError) as error:
        read(source)
    return str(error.value)


# CSV


def test_csv_rows_are_placed_at_the_line_they_start_at(write):
    # the cell of line 2 goes on to line 4; line 5 is blank
    text = 'question,answer\n"one\n\nline",1\n\ntwo,"a ""b"", c"\r\n"x\ny",3'
    assert read(write("qa.csv", text)) == [
        ("qa.csv:2", {"question": "one\n\nline", "answer": "1"}),
        ("qa.csv:6", {"question": "two", "answer": 'a "b", c'}),
        ("qa.csv:7", {"question": "x\ny", "answer": "3"}),
    ]


def test_cells_are_text_as_they_stand_and_empty_ones_are_null(write):
    path = write("a.csv", 'a,b,c,d\n=1+1, 07 ,"[{""role"": 1}]",\n"",NaN,null,"\r"\n')
    assert values(path) == [
        {"a": "=1+1", "b": " 07 ", "c": '[{"role": 1}]', "d": None},
        {"a": None, "b": "NaN", "c": "null", "d": "\r"},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_that_of_the_header(write, delimiter):
    path = write("a.csv", f'\n"a,;\t;,"{delimiter}b\n"1;2,3"{delimiter}4\n')
    assert read(path) == [("a.csv:3", {"a,;\t;,": "1;2,3", "b": "4"})]


def test_one_column_needs_no_delimiter(write):
    assert values(write("a.csv", 'text\none\n""\ntwo\n')) == [
        {"text": "one"},
        {"text": None},
        {"text": "two"},
    ]
    path = write("b.csv", "text\nHello, you\n")
    assert values(path) == [
        Broken(
            "Hello, you",
            "has 2 cells where the header has 1; put a cell that holds the delimiter in double quotes",
        )
    ]


def test_tsv_is_always_separated_by_tabs(write):
    assert read(write("a.tsv", "a,b;c,d\te\n1,2\t3\n")) == [("a.tsv:2", {"a,b;c,d": "1,2", "e": "3"})]


def test_a_row_of_another_length_is_a_broken_row(write):
    path = write("a.csv", 'a,b\n1,2\n1,2,3\n"x\ny"\n,\n')
    more, fewer = values(path)[1:3]
    assert more.text == "1,2,3"
    assert more.reason.startswith("has 3 cells where the header has 2; put a cell that holds")
    assert fewer.text == '"x\ny"'
    assert fewer.reason.startswith("has 1 cell where the header has 2; an empty cell keeps its delimiter")
    assert [place for place, _ in read(path)] == ["a.csv:2", "a.csv:3", "a.csv:4", "a.csv:6"]
    assert values(path)[3] == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,a\n", "x.csv:1: two columns are called 'a'; rename or remove one."),
        (",a,b\n", "x.csv:1: column 1 of 3 has no name; name it or remove it (pandas leaves out its index"),
        ("\na, \n", "x.csv:2: column 2 of 2 has no name"),
        ("a, b\n", "x.csv:1: the column name ' b' has blanks around it; remove them."),
        ("a,b;c\n", "x.csv:1: the header holds as often one comma and one semicolon"),
        (
            'a,b\n1,2\n3,"4\n5,6\n',
            "x.csv:3: the row that starts here is not valid CSV: a quote opens a cell and",
        ),
        (
            'a,b\n1,2\n"3"3,4\n',
            "x.csv:3: the row that starts here is not valid CSV: ',' expected after '\"'; a quote",
        ),
        ("a,b\r1,2\r", "x.csv:1: the row that starts here is not valid CSV: a carriage return stands in"),
        ('a,b\n"1\n2\0",3\n', "x.csv:3: the line holds a NUL byte"),
    ],
)
def test_a_broken_csv_file_names_line_and_remedy(write, text, message):
    assert message in refused(write("x.csv", text))


def test_a_cell_of_fifty_megabytes_is_read_and_an_endless_one_is_not(write, monkeypatch):
    before = csv.field_size_limit(131_072)
    try:
        cell = "0123456789" * 5_000_000
        assert values(write("a.csv", f'a,b\n"{cell}",2\n')) == [{"a": cell, "b": "2"}]
        assert csv.field_size_limit() == 100_000_000
        csv.field_size_limit(10)
        monkeypatch.setattr(csv_files, "LONGEST_CELL", 1000)
        path = write("b.csv", 'a\n"' + "line\n" * 300)
        assert "b.csv:2: the row that starts here is not valid CSV: a cell has more than" in refused(path)
        csv.field_size_limit(5000)  # of someone else in this process: stays
        assert "a quote opens a cell" in refused(path)
        assert csv.field_size_limit() == 5000
    finally:
        csv.field_size_limit(before)


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
SIMPLE = st.text("ab \n\r\",;\t'=", max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_csv_writer_wrote_is_read_back_with_its_lines(tmp_path, data, delimiter, quoting):
    width = data.draw(st.integers(1 if delimiter == "," else 2, 4))  # one column shows no delimiter
    rows = data.draw(st.lists(st.lists(CELLS | SIMPLE, min_size=width, max_size=width), max_size=6))
    names = ["one", "two", "three", "four"][:width]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
    expected = []
    writer.writerow(names)
    for row in rows:
        line = file.getvalue().count("\n") + 1
        writer.writerow(row)
        expected.append(
            (f"a.csv:{line}", {name: cell or None for name, cell in zip(names, row, strict=True)})
        )
    path = tmp_path / "a.csv"
    path.write_bytes(file.getvalue().encode())
    assert read(path) == expected


# Parquet and Arrow

ROWS = [
    {"id": number, "text": f"row {number} é", "turns": [{"role": "user", "content": "x"}] * (number % 3)}
    for number in range(250)
]
SCHEMA = pa.Table.from_pylist(ROWS).schema


def write_parquet(table, path):
    parquet.write_table(table, path, row_group_size=70)


def write_feather(table, path):
    feather.write_feather(table, path, chunksize=30)


def write_ipc_file(table, path):
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=240)


def write_ipc_stream(table, path):
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=240)


TABLES = [
    ("a.parquet", write_parquet),
    ("a.feather", write_feather),
    ("a.arrow", write_ipc_file),
    ("a.arrow", write_ipc_stream),
]
every_table = pytest.mark.parametrize(("name", "write_table"), TABLES)


@every_table
def test_a_table_is_read_batch_by_batch_and_counted_from_zero(tmp_path, name, write_table):
    write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    assert read(tmp_path / name) == [(f"{name}[{number}]", row) for number, row in enumerate(ROWS)]
    assert digest(tmp_path / name) == digest(str(tmp_path / name))


@every_table
def test_a_table_without_rows_has_no_records(tmp_path, name, write_table):
    write_table(SCHEMA.empty_table(), tmp_path / name)
    assert read(tmp_path / name) == []


@every_table
def test_values_are_plain_python(tmp_path, name, write_table):
    schema = pa.schema(
        [
            ("map", pa.map_(pa.string(), pa.int64())),
            ("pad", pa.struct([("a", pa.int64()), ("b", pa.string())])),
            ("score", pa.float64()),
            ("when", pa.timestamp("us")),
            ("day", pa.date32()),
            ("raw", pa.binary()),
            ("kind", pa.dictionary(pa.int8(), pa.string())),
        ]
    )
    rows = [
        {"map": [("x", 1), ("y", 2)], "pad": {"a": 1}, "score": float("nan"), "raw": b"\xff", "kind": "good"},
        {"when": datetime(2024, 1, 2, 3), "day": date(2024, 1, 2), "kind": "bad"},
    ]
    table = pa.Table.from_pylist(rows, schema)
    write_table(table, tmp_path / name)
    first, second = values(tmp_path / name)
    assert isnan(first.pop("score"))
    assert first == {
        "map": {"x": 1, "y": 2},
        "pad": {"a": 1, "b": None},
        "when": None,
        "day": None,
        "raw": b"\xff",
        "kind": "good",
    }
    assert second == dict.fromkeys(schema.names) | {
        "when": datetime(2024, 1, 2, 3),
        "day": date(2024, 1, 2),
        "kind": "bad",
    }


@every_table
def test_two_columns_of_one_name_are_refused(tmp_path, name, write_table):
    table = pa.table([[1], [2]], names=["a", "a"])
    if write_table is write_feather:
        return  # feather.write_feather refuses them itself
    write_table(table, tmp_path / name)
    assert refused(tmp_path / name) == f"{name}: two columns are called 'a'; rename or remove one."


@every_table
def test_a_key_twice_in_one_map_is_refused(tmp_path, name, write_table):
    schema = pa.schema([("map", pa.map_(pa.string(), pa.int64()))])
    write_table(pa.Table.from_pylist([{"map": [("x", 1), ("x", 2)]}], schema), tmp_path / name)
    assert f"{name}: the file is not readable as" in refused(tmp_path / name)


@every_table
def test_a_file_that_is_no_table_is_refused(tmp_path, name, write_table):
    write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for data in (b"", b"PAR1", b"ARROW1", b'{"a": 1}\n' * 9, whole[: len(whole) // 2], whole[1:]):
        (tmp_path / name).write_bytes(data)
        kind = "Parquet" if name == "a.parquet" else "Arrow"
        message = refused(tmp_path / name)
        assert message.startswith(f"{name}: the file is not readable as {kind} (")
        assert message.endswith("); write it anew.")
        assert "\n" not in message


@every_table
def test_a_damaged_table_is_an_error_or_rows_but_no_crash(tmp_path, name, write_table):
    write_table(pa.Table.from_pylist(ROWS[:20]), tmp_path / name)
    whole, draw, refusals = (tmp_path / name).read_bytes(), random.Random(7), 0
    for _ in range(100):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(data)
        try:
            read(tmp_path / name)
        except DataFileError:
            refusals += 1
    assert refusals > 0


def test_a_text_of_fifty_megabytes_is_read_from_parquet(tmp_path):
    text = "long text " * 5_000_000
    parquet.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == [{"text": text}]


# datasets


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


def test_what_datasets_saved_is_read_shard_by_shard(tmp_path, datasets):
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder, num_shards=2)
    (folder / "cache-0123.arrow").write_bytes(b"a cache of datasets itself")
    rows = read(folder)
    assert [value for _, value in rows] == ROWS
    assert rows[0][0] == "data-00000-of-00002.arrow[0]"
    assert rows[125][0] == "data-00001-of-00002.arrow[0]"  # 250 rows in two shards
    (folder / "data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow: there is no such file" in refused(folder)
    (folder / "state.json").write_text("{}")
    assert "state.json: this is no list of shards" in refused(folder)


def test_a_saved_dict_of_splits_asks_for_one(tmp_path, datasets):
    rows = datasets.Dataset.from_list(ROWS)
    splits = datasets.DatasetDict({"test": rows, "train": rows})
    splits.save_to_disk(tmp_path / "saved")
    message = refused(tmp_path / "saved")
    assert "the folder holds the splits of a data set; name one of" in message
    assert f"'{tmp_path / 'saved' / 'train'}'" in message
    assert values(tmp_path / "saved" / "train") == ROWS
    assert refused(splits) == "rows: the DatasetDict holds the splits ['test'], ['train']; give one of them."


def test_parquet_of_datasets_is_read(tmp_path, datasets):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS


def test_fields_of_mixed_types_are_read_as_they_were(tmp_path, datasets):
    # `datasets` keeps them in Arrow's JSON type; arguments of tool calls come so
    rows = [{"a": [{"x": 1}, "two", None]}, {"a": [{"y": [3]}]}, {"a": None}]
    mixed = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    mixed.to_parquet(tmp_path / "a.parquet")
    mixed.save_to_disk(tmp_path / "saved")
    for source in (mixed, tmp_path / "a.parquet", tmp_path / "saved"):
        assert values(source) == rows
    inner = [
        {"call": {"name": "f", "arguments": 1}},
        {"call": {"name": "g", "arguments": "x"}},
        {"call": None},
    ]
    nested = datasets.Dataset.from_list(inner, on_mixed_types="use_json")
    nested.to_parquet(tmp_path / "b.parquet")
    assert values(tmp_path / "b.parquet") == values(nested) == inner


def test_a_dataset_in_memory_is_read_as_stored(datasets):
    dataset = datasets.Dataset.from_list(ROWS)
    assert read(dataset) == [(f"rows[{number}]", row) for number, row in enumerate(ROWS)]
    assert digest(dataset) == digest(ROWS)
    assert values(dataset.select([3, 1]).with_format("numpy")) == [ROWS[3], ROWS[1]]
    assert values(dataset.with_format("numpy", columns=["id"]))[:2] == [{"id": 0}, {"id": 1}]
    assert values(dataset.to_iterable_dataset()) == ROWS
    doubled = dataset.with_transform(lambda batch: {"id": [2 * number for number in batch["id"]]})
    assert values(doubled)[:2] == [{"id": 0}, {"id": 2}]


def test_a_dataset_with_dates_and_bytes_has_a_digest(datasets):
    def of(day):
        return digest(
            datasets.Dataset.from_list([{"day": date(2024, 1, day), "raw": b"x", "score": float("nan")}])
        )

    assert of(1) == of(1) != of(2)
