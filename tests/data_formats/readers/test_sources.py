import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data_formats import digest
from posttrain.data_formats.readers import file_types
from posttrain.data_formats.readers.file_types import LONGEST_LINE, Broken
from posttrain.data_formats.readers.pieces import pieces_of
from posttrain.data_formats.readers.rows import OFFLINE, load_from_hub
from posttrain.data_formats.readers.sources import records
from posttrain.errors import DataFileError


def read(source):
    return [(record.place, record.value) for record in records(source)]


def refused(source):
    with pytest.raises(DataFileError) as error:
        read(source)
    return str(error.value)


# JSON lines


def test_jsonl_counts_lines_and_skips_blank_ones(write):
    path = write("chat.jsonl", '{"text": "a"}\n\n  \r\n{"text": "b"}\r\n')
    assert read(path) == [("chat.jsonl:1", {"text": "a"}), ("chat.jsonl:4", {"text": "b"})]


def test_jsonl_keeps_line_separators_inside_texts(write):
    # U+2028 and U+0085 end a line for str.splitlines, not for JSON lines.
    path = write("a.jsonl", [{"text": "a\u2028b\u0085c"}])
    assert read(path) == [("a.jsonl:1", {"text": "a\u2028b\u0085c"})]


TOO_LONG = "the line is longer than 64 MiB, which no row is; write one row a line."


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_kilobytes_that_unpack_to_one_endless_line_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}.gz"
    path.write_bytes(gzip.compress(b"text\n" + b"a" * (LONGEST_LINE + 1), compresslevel=1))
    assert path.stat().st_size < 400_000
    assert refused(path) == f"{path.name}:2: {TOO_LONG}"


def test_the_longest_line_that_is_read_is_just_below_the_limit(tmp_path):
    path = tmp_path / "a.jsonl"
    row = b'{"text": "%s"}\n'
    path.write_bytes(row % (b"a" * (LONGEST_LINE - len(row) + 1)))
    assert [len(value["text"]) for _, value in read(path)] == [LONGEST_LINE - len(row) + 1]
    path.write_bytes(row % (b"a" * (LONGEST_LINE - len(row) + 3)))
    assert refused(path) == f"a.jsonl:1: {TOO_LONG}"
    with pytest.raises(DataFileError, match=r"a\.jsonl:1: the line is longer than"):
        [record for piece in pieces_of([path]) for record in piece.records()]
    path.write_bytes(b"a" * (2 * LONGEST_LINE))
    with pytest.raises(DataFileError, match=r"a\.jsonl:1: the line is longer than"):
        list(pieces_of([path]))  # before it is taken into memory


def test_a_packed_array_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(file_types, "MOST_UNPACKED", 2**20)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b" " * 2**21))
    assert refused(path).startswith(
        f"{path}: unpacked it is larger than 1 MiB, and an array is read as a whole; "
    )
    path.write_bytes(gzip.compress(b'[{"text": "a"}]'))
    assert len(read(path)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=10,
)
ROWS = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=8)
FOLDER_IS_SHARED = [HealthCheck.function_scoped_fixture]  # each example writes its file anew


@settings(max_examples=60, deadline=None, suppress_health_check=FOLDER_IS_SHARED)
@given(rows=ROWS, blank=st.lists(st.integers(0, 2), min_size=8, max_size=8), ascii=st.booleans())
def test_what_json_dumps_wrote_is_read_back_with_its_lines(tmp_path, rows, blank, ascii):
    text, places = "", []
    for row, before in zip(rows, blank, strict=False):
        text += "\n" * before
        places.append(f"a.jsonl:{text.count(chr(10)) + 1}")
        text += json.dumps(row, ensure_ascii=ascii) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half a character, which only the escaped form can hold
        return
    (tmp_path / "a.jsonl").write_bytes(data)
    assert read(tmp_path / "a.jsonl") == list(zip(places, rows, strict=True))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [value for _, value in read(tmp_path / "a.json")] == rows


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            '{"a": 1,}',
            "not valid JSON at column 9 (Expecting property name enclosed in double quotes); each line must be one JSON object",
        ),
        (
            '{"a": 1} {"b": 2}',
            "not valid JSON at column 10 (Extra data); each line must be one JSON object",
        ),
        ('{"a": NaN}', "not valid JSON (NaN is no JSON number; write null or leave the field out)"),
        (
            '{"a": -Infinity}',
            "not valid JSON (-Infinity is no JSON number; write null or leave the field out)",
        ),
    ],
)
def test_a_broken_line_is_a_broken_row_and_its_neighbours_are_read(write, line, reason):
    path = write("a.jsonl", f'{{"a": 1}}\n {line}\r\n{{"a": 3}}\n')
    expected = [("a.jsonl:1", {"a": 1}), ("a.jsonl:2", Broken(line, reason)), ("a.jsonl:3", {"a": 3})]
    assert read(path) == expected


def test_a_line_with_bytes_of_another_encoding_is_a_broken_row(write):
    # "é" in Latin-1 is the single byte e9: `{"a": "caf` are 10 bytes
    path = write("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n{"a": "y"}')
    broken = Broken('{"a": "caf\\xe9"}', "byte 11 of the line (0xe9) is not UTF-8; save the file as UTF-8")
    assert read(path) == [("a.jsonl:1", {"a": "x"}), ("a.jsonl:2", broken), ("a.jsonl:3", {"a": "y"})]


def test_a_json_array_in_a_jsonl_file_is_a_fault_of_the_file(write):
    text = '[{"a": 1},\n{"a": 2}]'
    assert refused(write("a.jsonl", text)) == (
        "a.jsonl:1: not valid JSON at column 11 (Expecting value); each line must be one JSON object."
        " A JSON array belongs into a .json file."
    )
    assert "a.jsonl:1: not valid JSON" in refused(write("a.jsonl", "[" * 100_000))


def test_deep_nesting_and_long_numbers_break_their_row_only(write):
    deep, long = '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}", '{"a": ' + "7" * 5000 + "}"
    values = [value for _, value in read(write("a.jsonl", f'{deep}\n{long}\n{{"a": 3}}\n'))]
    assert [value.reason[:16] for value in values[:2]] == ["not valid JSON ("] * 2
    assert values[2] == {"a": 3}


# JSON


def test_json_records_are_numbered_from_zero(write):
    path = write("chat.json", ' [ {"a": 1} ,\n [2], null ]\n')
    assert read(path) == [("chat.json[0]", {"a": 1}), ("chat.json[1]", [2]), ("chat.json[2]", None)]


def test_the_rows_of_an_object_stand_under_data(write):
    path = write("squad.json", '{"version": "2.0",\n "data": [{"title": "a"}, {"title": "b"}]}\n')
    assert read(path) == [("squad.json data[0]", {"title": "a"}), ("squad.json data[1]", {"title": "b"})]
    assert read(write("none.json", '{"data": []}')) == []


@pytest.mark.parametrize("content", ['{"rows": []}', '{"data": {"a": 1}}', '{"a": 1}\n{"a": 2}', '"text"'])
def test_another_json_file_is_refused_with_what_is_read(write, content):
    assert refused(write("a.json", content)) == (
        f"a.json: the file must be a JSON array of rows ([{{...}}, {{...}}]) and starts with '{content[0]}';"
        " one JSON object a line belongs into a .jsonl file."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n {"a": 1},\n {"a" 2}\n]', "a.json:3: not valid JSON at column 7"),
        ('[{"a": 1}\n {"a": 2}]', "a.json:2: not valid JSON at column 2 (Expecting ',' or ']')"),
        ('[{"a": 1},\n]', "a.json:2: not valid JSON at column 1"),
        ('[{"a": 1}', "a.json:1: not valid JSON at column 10"),
        ('[{"a": 1}]\n[]', "a.json:2: not valid JSON at column 1 (Extra data"),
        ('[{"a": Infinity}]', "a.json:1: not valid JSON at column 2 (Infinity is no"),
        ('{"version": 2,\n "data" []}', "a.json:2: not valid JSON at column 9"),
        ('[{"a": ' + "[" * 10_000 + "]" * 10_000 + "}]", "a.json:1: not valid JSON at column 2"),
        ('{"data": ' + "[" * 10_000 + "]" * 10_000 + "}", "a.json:1: not valid JSON at column 1"),
    ],
)
def test_broken_json_names_line_and_column(write, content, message):
    assert message in refused(write("a.json", content))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_record_of_fifty_megabytes_is_read(write, name):
    row = {"text": "long text " * 5_000_000}
    (record,) = records(write(name, [row]))
    assert record.value == row
    assert len(record.value["text"]) == 50_000_000


# Text files of every kind


def test_txt_paragraphs_are_placed_at_their_first_line(write):
    path = write("book.txt", "\n\none\ntwo\r\n \nthree\n\n\n")
    assert read(path) == [("book.txt:3", {"text": "one\ntwo"}), ("book.txt:6", {"text": "three"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv", "A.JSONL"])
def test_a_byte_order_mark_is_no_content(write, name):
    kind = name.lower().partition(".")[2]
    text = {"json": '[{"text": "é"}]', "jsonl": '{"text": "é"}', "txt": "é"}.get(kind, "text\né\n")
    path = write(name, b"\xef\xbb\xbf" + text.encode())
    assert [value for _, value in read(path)] == [{"text": "é"}]


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl", "empty.txt", "empty.csv", "empty.tsv"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_records(write, name, content):
    assert read(write(name, content)) == []
    assert read(write("empty.json", "[ ]")) == []


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_utf16_is_a_fault_of_the_file(write, name, order, mark):
    data = ("\ufeff" * mark + '[{"a": 1}]').encode(f"utf-16-{order}")
    path = write(name, gzip.compress(data) if name.endswith(".gz") else data)
    assert refused(path) == f"{name}:1: the file is UTF-16; save it as UTF-8."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"a": "x"},\n{"a": "caf\xe9"}]', "a.json:2: byte 11 of the line (0xe9) is not UTF-8"),
        ("a.txt", b"one\n\ncaf\xe9\n", "a.txt:3: byte 4 of the line (0xe9) is not UTF-8"),
        ("a.csv", b'a,b\n"one\ncaf\xe9",two\n', "a.csv:3: byte 4 of the line (0xe9) is not UTF-8"),
    ],
)
def test_another_encoding_is_refused_with_its_place(write, name, content, message):
    assert message in refused(write(name, content))


# Gzip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl.gz", '{"a": "1"}\n\n{"a": "3"}\n'),
        ("x.json.gz", '[{"a": "1"},{"a": "3"}]'),
        ("x.csv.gz", "a\n1\n3\n"),
        ("x.TSV.GZ", "a\n1\n3\n"),
        ("x.txt.gz", "1\n\n3\n"),
    ],
)
def test_a_gzipped_file_is_read_as_the_file_in_it(write, name, text):
    packed, plain = write(name, gzip.compress(text.encode())), write(name[:-3], text)
    expected = [(place.replace(name[:-3], name), value) for place, value in read(plain)]
    assert len(expected) == 2
    assert read(packed) == expected
    assert digest(packed) == hashlib.sha256(packed.read_bytes()).hexdigest()


def test_a_damaged_gzip_file_is_refused(write):
    whole = gzip.compress(json.dumps({"a": "text " * 1000}).encode())
    for data in (whole[:-9], whole[: len(whole) // 2], b'{"a": 1}\n', whole[:-8] + b"12345678"):
        assert "a.jsonl.gz: the file is no whole gzip file (" in refused(write("a.jsonl.gz", data))
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    assert "the file is no whole gzip file" in refused(write("a.jsonl.gz", bytes(flipped)))


def test_a_gzipped_table_is_refused(write):
    assert "a .parquet file is not read out of a .gz; unpack it" in refused(write("x.parquet.gz", b""))


# Paths


def test_a_missing_file_suggests_its_neighbours(write, tmp_path):
    write("chat.jsonl", [{"text": "a"}])
    with pytest.raises(DataFileError, match=r"no such file\. Did you mean 'chat\.jsonl'\?"):
        digest(tmp_path / "chats.jsonl")
    with pytest.raises(DataFileError, match="does not exist either"):
        digest(tmp_path / "nowhere" / "chat.jsonl")


def test_another_file_type_is_refused_with_those_that_are_read(write):
    with pytest.raises(
        DataFileError, match=r"'\.xlsx' are not read; convert it to one of \.jsonl, \.json, \.txt, \.csv"
    ):
        digest(write("a.xlsx", b"PK"))
    assert "files ending in '.gz' are not read" in refused(write("a.gz", b""))


def test_a_folder_is_read_file_by_file_in_the_order_of_their_names(write, tmp_path):
    write("b.csv", "a\n2\n")
    write("a.jsonl", '\n{"a": "1"}\n')
    write("c.txt.gz", gzip.compress(b"three\n"))
    for aside in (".hidden.xlsx", "README.md", "LICENSE", "readme.txt", "License-MIT"):
        write(aside, b"\xff\xff")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.jsonl").write_text('{"a": "4"}\n')
    expected = [("a.jsonl:2", {"a": "1"}), ("b.csv:2", {"a": "2"}), ("c.txt.gz:1", {"text": "three"})]
    assert read(tmp_path) == expected


def test_data_that_is_called_readme_is_data(write, tmp_path):
    write("readme.jsonl", [{"a": 1}])
    assert read(tmp_path) == [("readme.jsonl:1", {"a": 1})]


def test_a_folder_with_a_file_that_is_not_read_is_refused(write, tmp_path):
    assert "the folder holds no file that is read" in refused(tmp_path)
    write("make.py", "")
    write("README.md", "")
    (tmp_path / "train").mkdir()
    assert refused(tmp_path).endswith("; in it: README.md, make.py, train.")
    write("a.jsonl", [{"a": 1}])
    assert "also holds 'make.py', which is not read" in refused(tmp_path)
    assert "name the files in a list" in refused(tmp_path)


def test_the_digest_of_a_folder_sees_names_and_bytes(write, tmp_path):
    write("a.jsonl", '{"a": 1}\n')
    one = hashlib.sha256(b'{"a": 1}\n').hexdigest()
    assert digest(tmp_path) == hashlib.sha256(b"a.jsonl\0" + one.encode() + b"\n").hexdigest()
    before = digest(str(tmp_path))
    write("README.md", "about")
    assert digest(tmp_path) == before
    os.rename(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert digest(tmp_path) != before


def test_the_digest_of_a_file_is_that_of_its_bytes(write):
    path = write("a.jsonl", '{"text": "a"}\n')
    assert digest(path) == digest(str(path)) == hashlib.sha256(b'{"text": "a"}\n').hexdigest()


# Rows in memory


class Again:
    """Rows that start anew each time they are asked for."""

    def __iter__(self):
        yield from ({"a": 1}, {"a": 2})


@pytest.mark.parametrize("source", [[{"a": 1}, {"a": 2}], ({"a": 1}, {"a": 2}), Again()])
def test_rows_in_memory_are_numbered_from_zero(source):
    assert read(source) == [("rows[0]", {"a": 1}), ("rows[1]", {"a": 2})]
    assert digest(source) == digest([{"a": 1}, {"a": 2}])


def test_what_can_be_read_once_is_refused():
    assert refused({"a": 1} for _ in "ab") == (
        "rows: the generator is an iterator that can be read once; give a list."
    )
    assert "the map is an iterator that can be read once" in refused(map(dict, []))


@pytest.mark.parametrize("source", [{"text": "a"}, b"text", 7, None])
def test_what_is_no_list_of_rows_is_refused(source):
    with pytest.raises(DataFileError, match=f"a list of rows, not a {type(source).__name__}"):
        digest(source)


def test_the_digest_of_rows_sees_content_and_order_only():
    rows = [{"a": 1, "b": "é"}, {"a": 2, "b": ""}]
    assert digest(rows) == digest(tuple(json.loads(json.dumps(rows))))
    assert digest(rows) == digest([{"b": "é", "a": 1}, rows[1]])
    assert digest(rows) != digest(rows[::-1])
    assert digest(rows) != digest([{"a": "1", "b": "é"}, rows[1]])
    with pytest.raises(DataFileError, match=r"rows\[1\]: the row cannot be written as JSON"):
        digest([{"a": 1}, {"a": {1, 2}}])


def test_rows_too_deep_for_json_have_no_digest():
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(DataFileError, match=r"rows\[0\]: the row cannot be written as JSON"):
        digest([{"a": deep}])


# The Hub


@pytest.fixture
def hub(monkeypatch):
    """hub: what load_dataset was asked for; it gives two rows, or raises what is put into `answers`."""
    import datasets

    asked, answers = [], []

    def load_dataset(name, *, split):
        asked.append((name, split))
        if answers:
            raise answers.pop()
        return datasets.Dataset.from_list([{"a": 1}, {"a": 2}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for variable in OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    load_from_hub.cache_clear()
    yield asked, answers
    load_from_hub.cache_clear()


def test_a_data_set_of_the_hub_is_downloaded_once_and_never_silently(hub, capsys):
    assert read("some-owner/some_set") == [
        ("some-owner/some_set[0]", {"a": 1}),
        ("some-owner/some_set[1]", {"a": 2}),
    ]
    assert digest("some-owner/some_set") == digest([{"a": 1}, {"a": 2}])
    assert hub[0] == [("some-owner/some_set", "train")]
    assert capsys.readouterr().err == "downloading data set some-owner/some_set from the Hub\n"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_nothing_is_downloaded(hub, monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "1")
    assert refused("owner/name").startswith(f"owner/name: there is no such file, and {variable} forbids")
    assert hub[0] == []
    assert capsys.readouterr().err == ""


def test_what_the_hub_cannot_give_is_one_sentence(hub):
    hub[1].append(ValueError("Unknown split \"train\". Should be one of ['test'].\nMore lines."))
    assert refused("owner/name") == (
        'owner/name: there is no such file, and the Hub gives no data set (ValueError: Unknown split "train".'
        " Should be one of ['test']); check the name, or download it and give the file."
    )
    assert read("owner/name")[0] == ("owner/name[0]", {"a": 1})  # a failure is not remembered


def test_a_path_that_exists_is_never_a_name_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert "no such file" in refused("data/chat")
    assert hub[0] == []


def test_reading_text_loads_no_table_library(write):
    path = write("a.csv", "a\n1\n")
    code = f"import sys; from posttrain.data_formats.readers.sources import records, digest; list(records({str(path)!r})); digest([{{'a': 1}}]);"
    code += "print([name for name in ('pyarrow', 'datasets', 'pandas', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
