import hashlib
import json

import pytest

from posttrain.data_formats import digest
from posttrain.data_formats.reader import records
from posttrain.errors import DataFileError


def read(source):
    return [(record.place, record.value) for record in records(source)]


def test_jsonl_counts_lines_and_skips_blank_ones(write):
    path = write("chat.jsonl", '{"text": "a"}\n\n  \r\n{"text": "b"}\r\n')
    assert read(path) == [("chat.jsonl:1", {"text": "a"}), ("chat.jsonl:4", {"text": "b"})]


def test_jsonl_keeps_line_separators_inside_texts(write):
    # U+2028 and U+0085 end a line for str.splitlines, not for JSON lines.
    path = write("a.jsonl", [{"text": "a\u2028b\u0085c"}])
    assert read(path) == [("a.jsonl:1", {"text": "a\u2028b\u0085c"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "A.JSONL"])
def test_a_byte_order_mark_is_no_content(write, name):
    text = {"json": '[{"text": "é"}]', "jsonl": '{"text": "é"}', "txt": "é"}[name.lower().partition(".")[2]]
    path = write(name, b"\xef\xbb\xbf" + text.encode())
    assert [value for _, value in read(path)] == [{"text": "é"}]


def test_json_records_are_numbered_from_zero(write):
    path = write("chat.json", ' [ {"a": 1} ,\n [2], null ]\n')
    assert read(path) == [("chat.json[0]", {"a": 1}), ("chat.json[1]", [2]), ("chat.json[2]", None)]


def test_rows_in_memory_are_numbered_from_zero():
    assert read([{"a": 1}, {"a": 2}]) == [("rows[0]", {"a": 1}), ("rows[1]", {"a": 2})]


def test_txt_paragraphs_are_placed_at_their_first_line(write):
    path = write("book.txt", "\n\none\ntwo\r\n \nthree\n\n\n")
    assert read(path) == [("book.txt:3", {"text": "one\ntwo"}), ("book.txt:6", {"text": "three"})]


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl", "empty.txt"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_records(write, name, content):
    assert read(write(name, content)) == []
    assert read(write("empty.json", "[ ]")) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1,}\n', "a.jsonl:2: not valid JSON at column 9"),
        ("a.jsonl", '{"a": NaN}\n', "a.jsonl:1: not valid JSON (NaN is no JSON number"),
        ("a.jsonl", '{"a": 1}\n{"a": -Infinity}\n', "a.jsonl:2: not valid JSON (-Infinity is no"),
        ("a.jsonl", '[{"a": 1},\n{"a": 2}]', "belongs into a .json file"),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: not valid JSON"),
        ("a.json", '[\n {"a": 1},\n {"a" 2}\n]', "a.json:3: not valid JSON at column 7"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', "a.json:2: not valid JSON at column 2 (Expecting ',' or ']')"),
        ("a.json", '[{"a": 1},\n]', "a.json:2: not valid JSON at column 1"),
        ("a.json", '[{"a": 1}', "a.json:1: not valid JSON at column 10"),
        ("a.json", '[{"a": 1}]\n[]', "a.json:2: not valid JSON at column 1 (Extra data"),
        ("a.json", '[{"a": Infinity}]', "a.json:1: not valid JSON at column 2 (Infinity is no"),
        ("a.json", '{"a": 1}\n{"a": 2}', "belongs into a .jsonl file"),
    ],
)
def test_broken_json_names_line_and_column(write, name, content, message):
    with pytest.raises(DataFileError) as error:
        read(write(name, content))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # "é" in Latin-1 is the single byte e9
        ("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n', "a.jsonl:2: byte 11 of the line (0xe9) is not UTF-8"),
        ("a.json", b'[{"a": "x"},\n{"a": "caf\xe9"}]', "a.json:2: byte 11 of the line (0xe9) is not UTF-8"),
        ("a.txt", b"one\n\ncaf\xe9\n", "a.txt:3: byte 4 of the line (0xe9) is not UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl:1: the file is UTF-16; save it as UTF-8"),
    ],
)
def test_another_encoding_is_refused_with_its_place(write, name, content, message):
    with pytest.raises(DataFileError) as error:
        read(write(name, content))
    assert message in str(error.value)


def test_records_before_a_broken_line_are_streamed(write):
    stream = records(write("a.jsonl", '{"a": 1}\nbroken\n'))
    assert next(stream).value == {"a": 1}
    with pytest.raises(DataFileError):
        next(stream)


def test_a_missing_file_suggests_its_neighbours(write, tmp_path):
    write("chat.jsonl", [{"text": "a"}])
    with pytest.raises(DataFileError, match=r"no such file\. Did you mean 'chat\.jsonl'\?"):
        digest(tmp_path / "chats.jsonl")
    with pytest.raises(DataFileError, match="does not exist either"):
        digest(tmp_path / "nowhere" / "chat.jsonl")


def test_a_folder_or_another_file_type_is_refused(write, tmp_path):
    with pytest.raises(DataFileError, match="this is a folder"):
        digest(tmp_path)
    path = write("a.parquet", b"PAR1")
    with pytest.raises(
        DataFileError, match=r"'\.parquet' are not read; convert it to one of \.jsonl, \.json, \.txt"
    ):
        digest(path)


def test_one_mapping_is_no_list_of_rows():
    with pytest.raises(DataFileError, match="a list of rows, not a dict"):
        digest({"text": "a"})


def test_the_digest_of_a_file_is_that_of_its_bytes(write):
    path = write("a.jsonl", '{"text": "a"}\n')
    assert digest(path) == digest(str(path)) == hashlib.sha256(b'{"text": "a"}\n').hexdigest()


def test_the_digest_of_rows_sees_content_and_order_only():
    rows = [{"a": 1, "b": "é"}, {"a": 2, "b": ""}]
    assert digest(rows) == digest(tuple(json.loads(json.dumps(rows))))
    assert digest(rows) == digest([{"b": "é", "a": 1}, rows[1]])
    assert digest(rows) != digest(rows[::-1])
    assert digest(rows) != digest([{"a": "1", "b": "é"}, rows[1]])
    with pytest.raises(DataFileError, match=r"rows\[1\]: the row cannot be written as JSON"):
        digest([{"a": 1}, {"a": {1, 2}}])
