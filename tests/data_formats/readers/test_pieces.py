from pathlib import Path

import pytest

from posttrain.data_formats.readers import pieces
from posttrain.data_formats.readers.pieces import SharedPieces, files_in_pieces, pieces_of
from posttrain.data_formats.readers.sources import records

CONTENTS = {
    "plain": b'{"a": 1}\n{"a": 2}\n{"a": 3}\n',
    "no newline at the end": b'{"a": 1}\n{"a": 2}\n{"a": 3}',
    "windows": b'{"a": 1}\r\n{"a": 2}\r\n\r\n{"a": 3}\r\n',
    "mark": b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n\xef\xbb\xbf{"a": 3}\n',
    "empty lines": b'\n\n{"a": 1}\n\n\n\n{"a": 2}\n   \n\n{"a": 3}\n\n',
    "one long line": b'{"a": 1}\n{"a": "' + b"x" * 500 + b'"}\n{"a": 3}\n',
    "bad rows": b'{"a": 1}\n{"a"\n\xff\n{"a": NaN}\n[1]\n{"a": 2}\n{"a": "\\ud83d"}\n',
    "other line ends": b'{"a": "1\x0c2"}\n{"a": "\xe2\x80\xa8"}\n{"a": 3}\n',
}


@pytest.mark.parametrize("size", [1, 7, 9, 10, 24, 1000])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pieces_hold_the_records_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    monkeypatch.setattr(pieces, "PIECE", size)
    found = list(pieces_of([path]))
    assert b"".join(piece.data for piece in found) == content
    assert [piece.number for piece in found] == list(range(len(found)))
    assert [record for piece in found for record in piece.records()] == list(records(path))


def test_pieces_go_through_all_files_and_begin_anew_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("a", b'{"a": 1}\n{"a": 2}'), ("b", b""), ("c", b'{"a": 3}\n')):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    monkeypatch.setattr(pieces, "PIECE", 5)
    files = files_in_pieces(tmp_path)
    assert [file.name for file in files] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    found = [(piece.number, piece.path.name, piece.line) for piece in pieces_of(files)]
    assert found == [(0, "a.jsonl", 1), (1, "a.jsonl", 2), (2, "c.jsonl", 1)]


def test_every_piece_is_handed_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(CONTENTS["plain"])
    monkeypatch.setattr(pieces, "PIECE", 5)
    one = SharedPieces.start([path], tmp_path / "next.json")
    other = SharedPieces(one.files, one.note, one.size)
    taken = [one.take(), other.take(), one.take(), other.take(), one.take()]
    assert [piece and piece.line for piece in taken] == [1, 2, 3, None, None]
    assert other.taken() == 3


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.csv", "a.txt"])
def test_other_files_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    monkeypatch.setattr(pieces, "PIECE", 5)
    assert files_in_pieces(tmp_path / name) == []


def test_small_files_rows_and_hub_ids_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(CONTENTS["plain"])
    assert files_in_pieces(tmp_path / "a.jsonl") == []
    assert files_in_pieces([{"a": 1}]) == []
    assert files_in_pieces("someone/rows") == []
