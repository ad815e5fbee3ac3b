"""Broken files: each is refused with its place, what was found and what to do, and no row is lost in silence."""

import copy
import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import Data, Kind, Limits, classification, encode_data, read_examples, translation
from posttrain.data_formats.loading import Reading
from posttrain.errors import DataError, DataFileError, RowError, SettingError

HALF = "\ud800"  # half of a character: JSON can write it, UTF-8 cannot
MEGABYTES = "long text " * 5_000_000  # 50 of them


@dataclass(frozen=True)
class Case:
    """A file and how the message about it begins; of a row, the line about it."""

    name: str
    file: str
    content: Any  # bytes; text; rows; or what writes the file
    kind: Kind
    message: str  # "{file}" is the path
    bad: int = 0  # rows that are refused; 0: the file as a whole is
    rows: int = 0  # that were read
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: type[Exception] = DataFileError

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        if callable(self.content):
            self.content(path)
        elif isinstance(self.content, list):
            lines = "".join(json.dumps(row) + "\n" for row in self.content)
            path.write_text(lines if path.suffix == ".jsonl" else json.dumps(self.content))
        else:
            path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.encode())
        return path


# Good rows, one of each layout: (kind, row)


def turns(*pairs: tuple[str, Any], role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    return [{role: who, content: what} for who, what in pairs]


def share(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return turns(*pairs, role="from", content="value")


def call(name: str = "weather", arguments: Any = None, call_id: str = "c1") -> dict[str, Any]:
    given = {"city": "Rome"} if arguments is None else arguments
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": given}}


def tool(**parameters: Any) -> dict[str, Any]:
    shape = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": "weather", "description": "", "parameters": shape | parameters},
    }


CALLS = {
    "messages": [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ],
    "tools": [tool()],
}
SHARED_CALLS = {
    "conversations": share(
        ("human", "Rome?"),
        ("function_call", '{"name": "weather", "arguments": {"city": "Rome"}}'),
        ("observation", "sunny"),
        ("gpt", "Sunny."),
    ),
    "tools": json.dumps([tool()["function"]]),
}
GOOD: dict[str, tuple[Kind, dict[str, Any]]] = {
    "text": ("text", {"text": "once upon a time"}),
    "messages": ("conversation", {"messages": turns(("user", "hi"), ("assistant", "yo"))}),
    "calls": ("conversation", CALLS),
    "sharegpt": ("conversation", {"conversations": share(("human", "hi"), ("gpt", "yo"))}),
    "shared calls": ("conversation", SHARED_CALLS),
    "rounds": ("conversation", {"conversation": [{"human": "hi", "assistant": "yo"}]}),
    "alpaca": ("conversation", {"instruction": "add", "input": "1 2", "output": "3"}),
    "completion": ("conversation", {"prompt": "2+2=", "completion": "4"}),
    "completion turns": (
        "conversation",
        {"prompt": turns(("user", "hi")), "completion": turns(("assistant", "yo"))},
    ),
    "qa": ("conversation", {"question": "Capital?", "answer": "Rome", "context": "Italy."}),
    "squad": (
        "conversation",
        {
            "paragraphs": [
                {"context": "Italy.", "qas": [{"question": "Capital?", "answers": [{"text": "Rome"}]}]}
            ]
        },
    ),
    "classification": ("conversation", {"text": "fine", "label": "good"}),
    "labelled": ("labelled", {"text": "fine", "label": "good"}),
    "spans": ("conversation", {"text": "Ada in Rome", "spans": [{"start": 0, "end": 3, "label": "who"}]}),
    "records": ("conversation", {"text": "Ada, 36", "records": [{"name": "Ada", "age": 36}]}),
    "translation": ("conversation", {"source": "yes", "target": "ja"}),
    "languages": ("conversation", {"translation": {"en": "yes", "de": "ja"}}),
    "explicit": ("preference", {"prompt": "2+2=", "chosen": "4", "rejected": "5"}),
    "explicit turns": (
        "preference",
        {
            "prompt": turns(("user", "hi")),
            "chosen": turns(("assistant", "yo")),
            "rejected": turns(("assistant", "no")),
        },
    ),
    "implicit": (
        "preference",
        {
            "chosen": turns(("user", "hi"), ("assistant", "yo")),
            "rejected": turns(("user", "hi"), ("assistant", "no")),
        },
    ),
    "alpaca pair": ("preference", {"instruction": "add", "chosen": "3", "rejected": "4"}),
    "sharegpt pair": (
        "preference",
        {
            "conversations": share(("human", "hi")),
            "chosen": {"from": "gpt", "value": "yo"},
            "rejected": {"from": "gpt", "value": "no"},
        },
    ),
    "swift pair": (
        "preference",
        {"messages": turns(("user", "hi"), ("assistant", "yo")), "rejected_response": "no"},
    ),
    "judged": ("unpaired", {"prompt": "2+2=", "completion": "4", "label": True}),
    "judged messages": (
        "unpaired",
        {"messages": turns(("user", "hi"), ("assistant", "yo")), "label": True},
    ),
    "prompt": ("prompt", {"prompt": "hi", "answer": "yo"}),
    "prompt messages": ("prompt", {"messages": turns(("user", "hi"))}),
    "prompt sharegpt": ("prompt", {"conversations": share(("human", "hi"))}),
    "prompt alpaca": ("prompt", {"instruction": "add", "input": "1 2"}),
    "prompt question": ("prompt", {"question": "Capital?", "answer": "Rome"}),
}


# Files that cannot be read


def file_case(name: str, file: str, content: Any, message: str, kind: Kind = "text", **more: Any) -> Case:
    return Case(name, file, content, kind, message, **more)


def line_case(name: str, line: str | bytes, reason: str) -> Case:
    """One broken line between two good ones."""
    data = line if isinstance(line, bytes) else line.encode()
    content = b'{"text": "a"}\n' + data + b'\n{"text": "b"}\n'
    return Case(name, "a.jsonl", content, "text", f"a.jsonl:2: {reason}", 1, 3, error=RowError)


DEEP = "[" * 10_000 + "]" * 10_000
LINES = [
    line_case(
        "comma behind the last field", '{"text": "a",}', "not valid JSON at column 14 (Expecting property"
    ),
    line_case("no comma", '{"text": "a" "id": 1}', "not valid JSON at column 14 (Expecting ',' delimiter)"),
    line_case("comma behind the object", '{"text": "a"},', "not valid JSON at column 14 (Extra data)"),
    line_case("two objects on one line", '{"text": "a"} {"text": "b"}', "not valid JSON at column 15 (Extra"),
    line_case("cut in a text", '{"text": "a', "not valid JSON at column 10 (Unterminated string"),
    line_case("cut in an object", '{"text": "a"', "not valid JSON at column 13 (Expecting ',' delimiter)"),
    line_case("single quotes", "{'text': 'a'}", "not valid JSON at column 2 (Expecting property name"),
    line_case("a comment", '{"text": "a"} // b', "not valid JSON at column 15 (Extra data)"),
    line_case("Python's True", '{"text": True}', "not valid JSON at column 10 (Expecting value)"),
    line_case("no quotes", "{text: a}", "not valid JSON at column 2 (Expecting property name"),
    line_case("plain text", "once upon a time", "not valid JSON at column 1 (Expecting value)"),
    line_case(
        "a tab in a text", '{"text": "a\tb"}', "not valid JSON at column 12 (Invalid control character"
    ),
    line_case("a wrong escape", r'{"text": "\x41"}', "not valid JSON at column 11 (Invalid \\escape"),
    line_case(
        "a wrong number", '{"text": "a", "id": 01}', "not valid JSON at column 22 (Expecting ',' delim"
    ),
    line_case("NaN", '{"text": "a", "id": NaN}', "not valid JSON (NaN is no JSON number"),
    line_case("Infinity", '{"text": "a", "id": Infinity}', "not valid JSON (Infinity is no JSON number"),
    line_case(
        "minus Infinity", '{"text": "a", "id": -Infinity}', "not valid JSON (-Infinity is no JSON number"
    ),
    line_case("a number of 5,000 digits", '{"text": ' + "7" * 5000 + "}", "not valid JSON ("),
    line_case("nested 10,000 times", '{"text": ' + DEEP + "}", "not valid JSON ("),
    line_case("a byte order mark inside", '\ufeff{"text": "a"}', "not valid JSON at column 1 ("),
    line_case("Latin-1", b'{"text": "caf\xe9"}', "byte 14 of the line (0xe9) is not UTF-8; save the file as"),
    line_case(
        "half a character in UTF-8", b'{"text": "\xed\xa0\x80"}', "byte 11 of the line (0xed) is not UTF-8"
    ),
    line_case("a cut character", b'{"text": "caf\xc3"}', "byte 14 of the line (0xc3) is not UTF-8"),
    line_case("a NUL byte", b'{"text": "a\0"}', "not valid JSON at column 12 (Invalid control character"),
    line_case("a list", '["a"]', "the record is a list and must be an object"),
    line_case("a text", '"a"', "the record is text and must be an object"),
    line_case("null", "null", "the record is null and must be an object"),
    line_case("a number", "7", "the record is a number (7) and must be an object"),
    line_case("50 megabytes and no end", '{"text": "' + MEGABYTES, "not valid JSON at column 10 (Untermin"),
]


def packed(data: bytes, change: Callable[[bytes], bytes] = lambda data: data) -> bytes:
    return change(gzip.compress(data))


def parquet(
    path: Path, columns: Mapping[str, list[Any]] | None = None, names: list[str] | None = None
) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    made = pyarrow.table(dict(columns or {"text": ["a", "b"]}))
    write_table(made.rename_columns(names) if names else made, path)


def cut_parquet(path: Path) -> None:
    parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


NO_RECORD = "{file}: there is no record in it; it is empty."
TEXTS = '{"text": "a"}\n'
FILES = [
    *[
        file_case(f"{what} as .{end}", f"a.{end}", content, NO_RECORD)
        for end in ("jsonl", "json", "txt", "csv", "tsv")
        for what, content in (("empty", b""), ("blank lines", b"\n\n\n"), ("a mark alone", b"\xef\xbb\xbf"))
    ],
    file_case("an empty array", "a.json", "[]", NO_RECORD),
    file_case("a header alone", "a.csv", "text,id\n", NO_RECORD),
    file_case("an empty .gz", "a.jsonl.gz", packed(b""), NO_RECORD),
    file_case("an empty table", "a.parquet", lambda path: parquet(path, {"text": []}), NO_RECORD),
    *[
        file_case(f"UTF-16 as {name}", name, data, f"{name}:1: the file is UTF-16; save it as UTF-8.")
        for name in ("a.jsonl", "a.json", "a.csv", "a.txt")
        for data in ('[{"text": "a"}]'.encode("utf-16"), '[{"text": "a"}]'.encode("utf-16-be"))
    ],
    file_case("a lone bracket", "a.json", "[", "a.json:1: not valid JSON at column 2 (Expecting value)."),
    file_case("a lone bracket in lines", "a.jsonl", "[", "a.jsonl:1: not valid JSON at column 2 (Expecting v"),
    file_case("an array in lines", "a.jsonl", "[\n" + TEXTS + "]", "a.jsonl:1: not valid JSON at column 2 ("),
    file_case("a whole array on one line", "a.jsonl", '[{"text": "a"}]', "a.jsonl:1: the record is a list and"),
    file_case("two arrays", "a.json", '[{"text": "a"}]\n[{"text": "b"}]', "a.json:2: not valid JSON at column 1 (E"),
    file_case("an object", "a.json", '{"text": "a"}', "a.json: the file must be a JSON array of rows"),
    file_case("lines as .json", "a.json", TEXTS * 2, "a.json: the file must be a JSON array of rows"),
    file_case("data that is no list", "a.json", '{"data": {"text": "a"}}', "a.json: the file must be a JSON array"),
    file_case("a text as .json", "a.json", '"a"', "a.json: the file must be a JSON array of rows"),
    file_case("null as .json", "a.json", "null", "a.json: the file must be a JSON array of rows"),
    file_case("comma at the end", "a.json", '[{"text": "a"},\n]', "a.json:2: not valid JSON at column 1 (Expecting"),
    file_case("comma in an object", "a.json", '[{"text": "a",}]', "a.json:1: not valid JSON at column 15 (Expecting"),
    file_case("no comma between rows", "a.json", '[{"text": "a"}\n{"text": "b"}]', "a.json:2: not valid JSON at column"),
    file_case("a cut array", "a.json", '[{"text": "a"}, {"te', "a.json:1: not valid JSON at column 18 (Untermin"),
    file_case("NaN in an array", "a.json", '[{"text": "a"},\n{"text": NaN}]', "a.json:2: not valid JSON at column 1 ("),
    file_case("nested 10,000 times", "a.json", f'[{{"text": {DEEP}}}]', "a.json:1: not valid JSON at column 2 ("),
    file_case("a mark inside", "a.json", '[{"text": "a"},\n\ufeff{"text": "b"}]', "a.json:2: not valid JSON at column 1"),
    file_case("Latin-1 array", "a.json", b'[{"text": "a"},\n{"text": "\xe9"}]', "a.json:2: byte 11 of the line (0xe9)"),
    file_case("Latin-1 text", "a.txt", b"one\n\ntwo \xe9", "a.txt:3: byte 5 of the line (0xe9) is not UTF-8"),
    file_case("Latin-1 table", "a.csv", b"text\ncaf\xe9\n", "a.csv:2: byte 4 of the line (0xe9) is not UTF-8"),
    file_case("a column twice", "a.csv", "text,text\na,b\n", "a.csv:1: two columns are called 'text'; rename or"),
    file_case("a column without a name", "a.csv", ",text\n0,a\n", "a.csv:1: column 1 of 2 has no name; name it"),
    file_case("blanks around a name", "a.csv", "text, id\na,1\n", "a.csv:1: the column name ' id' has blanks around"),
    file_case("an open quote", "a.csv", 'text,id\n"a,1\nb,2\n', "a.csv:2: the row that starts here is not valid CSV"),
    file_case("a quote inside", "a.csv", 'text,id\n"a"b,1\n', "a.csv:2: the row that starts here is not valid CSV"),
    file_case("a NUL in a table", "a.csv", "text,id\na\0,1\n", "a.csv:2: the line holds a NUL byte"),
    file_case("no clear delimiter", "a.csv", "text,id;more\n1,2;3\n", "a.csv:1: the header holds as often one comma"),
    file_case("old line ends", "a.csv", "text,id\ra,1\r", "a.csv:1: the row that starts here is not valid CSV"),
    file_case("no gzip", "a.jsonl.gz", TEXTS, "{file}: the file is no whole gzip file ("),
    file_case("cut gzip", "a.jsonl.gz", packed(TEXTS.encode() * 99, lambda d: d[:-9]), "{file}: the file is no whole"),
    file_case("changed gzip", "a.csv.gz", packed(b"text\na\n", lambda d: d[:-8] + b"12345678"), "{file}: the file is no"),
    file_case("gzip of a table", "a.parquet.gz", packed(b""), "{file}: a .parquet file is not read out of a .gz"),
    file_case("no parquet", "a.parquet", TEXTS, "a.parquet: the file is not readable as Parquet ("),
    file_case("empty parquet", "a.parquet", b"", "a.parquet: the file is not readable as Parquet ("),
    file_case("cut parquet", "a.parquet", cut_parquet, "a.parquet: the file is not readable as Parquet ("),
    file_case("a parquet column twice", "a.parquet", lambda path: parquet(path, {"a": ["x"], "b": ["y"]}, ["text"] * 2), "a.parquet: two columns are called 'text'"),
    file_case("no arrow", "a.arrow", TEXTS * 9, "a.arrow: the file is not readable as Arrow ("),
    file_case("cut arrow", "a.feather", b"ARROW1", "a.feather: the file is not readable as Arrow ("),
    file_case("a spreadsheet", "a.xlsx", b"PK", "{file}: files ending in '.xlsx' are not read; convert it to one of"),
    file_case("no suffix", "data", TEXTS, "{file}: files ending in '' are not read; convert it"),
    file_case("a missing file", "a.jsonl", lambda path: None, "{file}: there is no such file."),
    file_case("an empty folder", "folder", lambda path: path.mkdir(), "{file}: the folder holds no file that is read"),
    file_case("other fields", "a.jsonl", '{"body": "a"}\n', "a.jsonl:1: no known format of kind 'text' has these fields: body. Did you mean 'body' -> 'text'?"),
    file_case("an empty object", "a.jsonl", "{}\n", "a.jsonl:1: no known format of kind 'text' has these fields: none"),
    file_case("rows of another kind", "a.jsonl", [GOOD["explicit"][1]], "a.jsonl:1: no known format of kind 'conversation' has these fields: prompt, chosen, rejected. They are trl_explicit_prompt, which is of kind 'preference'.", "conversation"),
    file_case("every line broken", "a.jsonl", '{"text"\n{"text"\n', "2 rows of 2 cannot be read (broken row 2):\na.jsonl:1: not valid JSON at column 8", error=RowError),
    # Settings that do not fit the file
    file_case("columns of another file", "a.csv", "Frage,Antwort\na,b\n", "a.csv:2: columns names 'Antwrot', which the row does not have; did you mean 'Antwort'?", "conversation", settings={"columns": {"question": "Frage", "answer": "Antwrot"}}),
    file_case("columns of no file", "a.csv", "Frage,Antwort\na,b\n", "a.csv:2: columns names 'x', which the row does not have; the fields are Frage, Antwort.", "conversation", settings={"columns": {"question": "x"}}),
    file_case("columns that hide one", "a.csv", "text,body\na,b\n", "a.csv:2: columns takes 'text' from 'body', and the row has a field 'text', too", settings={"columns": {"text": "body"}}),
    file_case("a format that is none", "a.jsonl", [GOOD["alpaca"][1]], "No data format of kind 'conversation' is called 'alpcaa'. Did you mean 'alpaca'?", "conversation", settings={"format": "alpcaa"}, error=SettingError),
    file_case("a format without likeness", "a.jsonl", [GOOD["alpaca"][1]], "No data format of kind 'conversation' is called 'x'. There are: openai_tools, function_calling", "conversation", settings={"format": "x"}, error=SettingError),
    file_case("a name of another kind", "a.jsonl", [GOOD["alpaca"][1]], "Data format 'trl_explicit_prompt' is of kind 'preference', and this stage takes kind 'conversation'.", "conversation", settings={"format": "trl_explicit_prompt"}, error=SettingError),
    file_case("a format of another kind", "a.jsonl", [GOOD["text"][1]], "Data format 'classification' is of kind 'conversation', and this stage takes kind 'text'.", settings={"format": classification()}, error=SettingError),
]  # fmt: skip


# Rows that break their format: one among two good ones


def row_case(
    name: str, layout: str, row: Any, message: str, bad: int = 1, good: Any = None, **settings: Any
) -> Case:
    kind, kept = GOOD[layout] if good is None else (GOOD[layout][0], good)
    rows = [kept, row, kept]
    place = f"rows.jsonl:{2 if bad == 1 else 1} "
    return Case(name, "rows.jsonl", rows, kind, place + message, bad, 3, settings, RowError)


def changed(layout: str, *path: Any, to: Any = None) -> dict[str, Any]:
    """The good row with another value at the path; to=...: without the field."""
    row = copy.deepcopy(GOOD[layout][1])
    if not path:
        return row
    inside: Any = row
    for step in path[:-1]:
        inside = inside[step]
    if to is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = to
    return row


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (..., "is missing; the fields are "),
    "null": (None, "is null and must be text"),
    "number": (7, "is a number (7) and must be text"),
    "bool": (True, "is true or false and must be text"),
    "list": (["a"], "is a list and must be text"),
    "object": ({"a": 1}, "is an object and must be text"),
    "empty": ("", "is empty; fill it or remove the row"),
    "blank": (" \n", "is empty; fill it or remove the row"),
    "half": (HALF, "holds half a character (U+D800); write the text anew"),
}
MAY_BE_EMPTY = dict.fromkeys(("missing", "null", "empty"))
LIST_OF_PARTS = {"list": "[0]: is text and must be an object"}
OR_MESSAGES = {
    "null": ": is null and must be text or a list of messages",
    "number": ": is a number (7) and must be text or a list of messages",
    "bool": ": is true or false and must be text or a list of messages",
    "object": ": is an object and must be text or a list of messages",
}
ANSWER = {"missing": None, "list": None, "object": ".text: is missing; the fields are a"}
TURN = "messages", 1, "content"
# (layout, the field that holds text, {value: what is said instead; None: nothing is wrong with it})
FIELDS: list[tuple[str, tuple[Any, ...], Mapping[str, str | None]]] = [
    ("text", ("text",), {}),
    ("messages", ("messages", 0, "role"), {}),
    ("messages", TURN, LIST_OF_PARTS),
    ("messages", ("system",), MAY_BE_EMPTY),
    ("calls", ("messages", 2, "content"), {"null": ": is null and must be the result of the tool"} | dict.fromkeys(("number", "bool", "list", "object", "empty", "blank"))),
    ("calls", ("messages", 1, "content"), dict.fromkeys(("missing", "null", "empty", "blank")) | LIST_OF_PARTS),
    ("calls", ("messages", 1, "tool_calls", 0, "function", "name"), {}),
    ("calls", ("messages", 1, "reasoning_content"), MAY_BE_EMPTY),
    ("calls", ("tools", 0, "function", "name"), {}),
    ("calls", ("tools", 0, "function", "description"), MAY_BE_EMPTY),
    ("sharegpt", ("conversations", 0, "from"), {}),
    ("sharegpt", ("conversations", 1, "value"), LIST_OF_PARTS),
    ("rounds", ("conversation", 0, "human"), {}),
    ("rounds", ("conversation", 0, "assistant"), {}),
    ("alpaca", ("input",), MAY_BE_EMPTY),
    ("alpaca", ("output",), {}),
    ("alpaca", ("system",), MAY_BE_EMPTY),
    ("completion", ("completion",), OR_MESSAGES | {"list": ": is a list while 'prompt' is text"}),
    ("qa", ("question",), {}),
    ("qa", ("answer",), ANSWER | {"missing": ": is missing; the fields are question, context"}),
    ("qa", ("context",), MAY_BE_EMPTY),
    ("classification", ("text",), {}),
    ("classification", ("label",), dict.fromkeys(("number", "bool")) | {"list": None}),
    ("labelled", ("text",), {}),
    ("spans", ("text",), {}),
    ("spans", ("spans", 0, "label"), {}),
    ("translation", ("source",), {}),
    ("translation", ("target",), {}),
    ("languages", ("translation", "de"), {"missing": None}),
    ("explicit", ("chosen",), OR_MESSAGES | {"list": ": is a list while 'prompt' is text"}),
    ("explicit", ("rejected",), OR_MESSAGES | {"list": ": is a list while 'prompt' is text"}),
    ("alpaca pair", ("chosen",), {}),
    ("alpaca pair", ("rejected",), {}),
    ("sharegpt pair", ("chosen", "value"), LIST_OF_PARTS),
    ("sharegpt pair", ("rejected", "from"), {"missing": None}),
    ("swift pair", ("rejected_response",), {}),
    ("judged", ("completion",), OR_MESSAGES | {"list": ": is a list while 'prompt' is text"}),
    ("prompt", ("prompt",), {"list": "[0]: is text and must be an object"}),
    ("prompt messages", ("messages", 0, "content"), LIST_OF_PARTS),
    ("prompt sharegpt", ("conversations", 0, "value"), LIST_OF_PARTS),
    ("prompt alpaca", ("input",), MAY_BE_EMPTY),
    ("prompt question", ("question",), {}),
]  # fmt: skip


def named(path: tuple[Any, ...]) -> str:
    """messages, 1, content -> messages[1].content"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def wrong_types() -> list[Case]:
    cases = []
    for layout, path, instead in FIELDS:
        for name, (value, fault) in WRONG.items():
            said = instead.get(name, f": {fault}")
            if said is not None:
                row = changed(layout, *path, to=value) if _has(layout, path, value) else None
                if row is not None:
                    cases.append(row_case(f"{layout} {named(path)} {name}", layout, row, named(path) + said))
    return cases


def _has(layout: str, path: tuple[Any, ...], value: Any) -> bool:
    """An optional field that the good row leaves out cannot be removed."""
    inside: Any = GOOD[layout][1]
    for step in path[:-1]:
        inside = inside[step]
    return value is not ... or path[-1] in inside


def dialogue(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": turns(*pairs), **more}


def calling(*after: dict[str, Any], calls: Any = None, **row: Any) -> dict[str, Any]:
    """A question, a call, and what comes after it; the last word of the assistant is added."""
    first = {"role": "assistant", "content": None, "tool_calls": [call()] if calls is None else calls}
    last = {"role": "assistant", "content": "Sunny."}
    return {"messages": [{"role": "user", "content": "Rome?"}, first, *after, last], "tools": [tool()]} | row


def result(call_id: str = "c1", content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


TWO = [call(), call(call_id="c2")]
TURNS = [
    row_case("two user turns", "messages", dialogue(("user", "a"), ("user", "b"), ("assistant", "c")), "messages[1]: is of the user, where the assistant must speak"),
    row_case("two user turns under a system prompt", "messages", dialogue(("user", "a"), ("user", "b"), ("assistant", "c"), system="be"), "messages[1]: is of the user, where the assistant must speak"),
    row_case("two answers", "messages", dialogue(("user", "a"), ("assistant", "b"), ("assistant", "c")), "messages[2]: is of the assistant, where the user must speak"),
    row_case("the assistant first", "messages", dialogue(("assistant", "a"), ("user", "b"), ("assistant", "c")), "messages[0]: is of the assistant, where the user must speak"),
    row_case("no answer", "messages", dialogue(("user", "a")), "messages: has no assistant turn"),
    row_case("the last answer is missing", "messages", dialogue(("user", "a"), ("assistant", "b"), ("user", "c")), "messages: ends with a user turn; add the answer or remove the turn"),
    row_case("a late system turn", "messages", dialogue(("user", "a"), ("system", "b"), ("assistant", "c")), "messages[1]: is a system turn; only the first turn can be one"),
    row_case("two system prompts", "messages", dialogue(("system", "a"), ("user", "b"), ("assistant", "c"), system="d"), "system: is there beside a system turn in 'messages'"),
    row_case("an unknown role", "messages", dialogue(("user", "a"), ("narrator", "b")), "messages[1].role: is 'narrator', which is no known role; the roles found are narrator, user"),
    row_case("a role of 50 megabytes", "messages", dialogue(("user", "a"), (MEGABYTES, "b")), "messages[1].role: is 'long text long text"),
    row_case("a role of two lines", "messages", dialogue(("user\nrows.jsonl:9 x", "a")), r"messages[0].role: is 'user\nrows.jsonl:9 x', which is no known role"),
    row_case("an unknown role of sharegpt", "sharegpt", {"conversations": share(("alien", "a"), ("gpt", "b"))}, "conversations[0].from: is 'alien', which is no known role"),
    row_case("no list of messages", "messages", {"messages": "hi"}, "messages: is text and must be a list"),
    row_case("an empty list", "messages", {"messages": []}, "messages: is an empty list; remove the row"),
    row_case("turns that are texts", "messages", {"messages": ["hi", "yo"]}, "messages[0]: is text and must be an object"),
    row_case("a row without messages", "messages", {"id": 3}, "messages: is missing; the fields are id"),
    row_case("an empty row", "messages", {}, "messages: is missing; the fields are none"),
    row_case("a row without conversations", "sharegpt", {"id": 3}, "conversations: is missing; the fields are id"),
    row_case("a row without rounds", "rounds", {"id": 3}, "conversation: is missing; the fields are id"),
    row_case("no rounds", "rounds", {"conversation": []}, "conversation: is an empty list; remove the row"),
    row_case("a round that is a text", "rounds", {"conversation": ["hi"]}, "conversation[0]: is text and must be an object"),
    row_case("turns as rounds", "rounds", {"conversation": turns(("user", "hi"))}, "conversation[0].human: is missing; the fields are role, content"),
    row_case("a wrong loss", "messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": "no"}]}, "messages[1].loss: is 'no' and must be true, false, 0 or 1"),
    row_case("a loss on the question", "messages", {"messages": [{"role": "user", "content": "a", "loss": 1}, {"role": "assistant", "content": "b"}]}, "messages[0].loss: asks to train on a user turn"),
    row_case("nothing trained", "messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}, "messages: has 'loss' 0 on every assistant turn"),
    row_case("a weight of a turn", "messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss_scale": 2}]}, "messages[1].loss_scale: is not read"),
    row_case("an image in the row", "messages", {**GOOD["messages"][1], "images": ["a.png"]}, "images: is not read by format openai_messages"),
    row_case("an image in a turn", "messages", dialogue(("user", [{"type": "image_url", "image_url": {"url": "a"}}]), ("assistant", "b")), "messages[0].content[0].type: is 'image_url'; on user turns are read text, tool_result, and no images"),
    row_case("a part without a type", "messages", dialogue(("user", [{"text": "a"}]), ("assistant", "b")), "messages[0].content[0].type: is null; on user turns are read text"),
    row_case("a part that is no text", "messages", dialogue(("user", [{"type": "text", "text": 7}]), ("assistant", "b")), "messages[0].content[0].text: is a number (7) and must be text"),
    row_case("no parts", "messages", dialogue(("user", []), ("assistant", "b")), "messages[0].content: is empty"),
    row_case("a call of the user", "messages", {"messages": [{"role": "user", "content": "a", "tool_calls": [call()]}, {"role": "assistant", "content": "b"}]}, "messages[0].tool_calls: is there on a user turn, and only assistants call tools"),
    row_case("a call among the user's parts", "messages", dialogue(("user", [{"type": "text", "text": "a"}, {"type": "tool_use", "name": "f", "input": {}}]), ("assistant", "b")), "messages[0].content[1].type: is 'tool_use'; on user turns are read"),
    row_case("a result among the assistant's parts", "messages", dialogue(("user", "a"), ("assistant", [{"type": "text", "text": "b"}, {"type": "tool_result", "content": "c"}])), "messages[1].content[1].type: is 'tool_result'; on assistant turns are read"),
]  # fmt: skip

TOOLS = [
    row_case("an undeclared tool", "calls", calling(result(), calls=[call("wether")]), "messages[1]: calls 'wether', and the row declares weather; declare it in 'tools' or fix the name"),
    row_case("no tools", "calls", calling(result(), tools=None), "messages[1]: calls 'weather', and the row declares none"),
    row_case("an undeclared tool under a system prompt", "calls", calling(result(), calls=[call("f")], system="be"), "messages[1]: calls 'f', and the row declares weather"),
    row_case("a required argument is missing", "calls", calling(result(), calls=[call(arguments={"town": "Rome"})]), "messages[1]: calls 'weather' with no argument 'city', which the tool requires"),
    row_case("no arguments at all", "calls", calling(result(), calls=[call(arguments="")]), "messages[1]: calls 'weather' with no argument 'city', which"),
    row_case("an unknown argument", "calls", calling(result(), calls=[call(arguments={"city": "Rome", "unit": "C"})], tools=[tool(additionalProperties=False)]), "messages[1]: calls 'weather' with an argument 'unit', which the tool does not take (city)"),
    row_case("arguments that are no JSON", "calls", calling(result(), calls=[call(arguments='{"city": "Rome"')]), "messages[1].tool_calls[0].function.arguments: is text that is no valid JSON ("),
    row_case("arguments with a key twice", "calls", calling(result(), calls=[call(arguments='{"city": "Rome", "city": "Bonn"}')]), "messages[1].tool_calls[0].function.arguments: is text that is no valid JSON (the key 'city' stands twice"),
    row_case("arguments encoded twice", "calls", calling(result(), calls=[call(arguments=json.dumps(json.dumps({"city": "Rome"})))]), "messages[1].tool_calls[0].function.arguments: is text and must be an object"),
    row_case("arguments that are a list", "calls", calling(result(), calls=[call(arguments=["Rome"])]), "messages[1].tool_calls[0].function.arguments: is a list and must be an object"),
    row_case("arguments that are a number", "calls", calling(result(), calls=[call(arguments="7")]), "messages[1].tool_calls[0].function.arguments: is a number (7) and must be an object"),
    row_case("NaN in arguments", "calls", calling(result(), calls=[call(arguments='{"city": NaN}')]), "messages[1].tool_calls[0].function.arguments: is text that is no valid JSON (NaN is no"),
    row_case("half a character in arguments", "calls", calling(result(), calls=[call(arguments={"city": HALF})]), "messages[1].tool_calls[0].function.arguments: holds half a character (U+D800)"),
    row_case("arguments nested 10,000 times", "calls", calling(result(), calls=[call(arguments=f'{{"city": {DEEP}}}')]), "messages[1].tool_calls[0].function.arguments: is text that is no valid JSON ("),
    row_case("arguments nested 200 times", "calls", calling(result(), calls=[call(arguments=f'{{"city": {"[" * 200 + "]" * 200}}}')]), "messages[1].tool_calls[0].function.arguments: holds lists or objects in each other 100 times"),
    row_case("calls that are text", "calls", calling(result(), calls="weather"), "messages[1].tool_calls: is text that is no valid JSON ("),
    row_case("a call that is text", "calls", calling(result(), calls=["weather"]), "messages[1].tool_calls[0]: is text and must be an object"),
    row_case("a call without a name", "calls", calling(result(), calls=[{"function": {"arguments": {}}}]), "messages[1].tool_calls[0].function.name: is missing; the fields are arguments"),
    row_case("other calls in the parts", "calls", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bonn"}}], "tool_calls": [call()]}, result(), {"role": "assistant", "content": "b"}], "tools": [tool()]}, "messages[1].tool_calls: holds other calls than the turn makes elsewhere"),
    row_case("a result without a call", "calls", {"messages": [{"role": "user", "content": "a"}, result(), {"role": "assistant", "content": "b"}], "tools": [tool()]}, "messages[1]: is a tool result with no call before it"),
    row_case("more results than calls", "calls", calling(result(""), result("")), "messages[3]: is a tool result with more results than calls"),
    row_case("a wrong id", "calls", calling(result("c9")), "messages[2]: answers the call 'c9', which the turn before did not make (c1)"),
    row_case("one id twice", "calls", calling(result(), result(), calls=TWO), "messages[2]: answers the call 'c1', which has another result, too"),
    row_case("one result for two calls", "calls", calling(result("c2"), calls=TWO), "messages[2]: is the last result, and call 0 ('c1') has none"),
    row_case("no result", "calls", {"messages": [*turns(("user", "a")), {"role": "assistant", "tool_calls": [call()]}, *turns(("user", "b"), ("assistant", "c"))], "tools": [tool()]}, "messages[2]: is of the user, where the result of the tool call must stand"),
    row_case("the last word is missing", "calls", {"messages": CALLS["messages"][:3], "tools": [tool()]}, "messages: ends with a tool turn; add the answer or remove the turn"),
    row_case("a result of half a character", "calls", calling(result(content={"sky": HALF})), "messages[2].content: holds half a character (U+D800)"),
    row_case("half a character beside a call", "calls", changed("calls", "messages", 1, "content", to=f"Hm {HALF}"), "messages[1].content: holds half a character (U+D800)"),
    row_case("a tool twice", "calls", calling(result(), tools=[tool(), tool()]), "tools[1]: is 'weather' again; keep one of them"),
    row_case("required names no property", "calls", calling(result(), tools=[tool(required=["town"])]), "tools[0].function.parameters.required: names 'town', which is not among the properties (city)"),
    row_case("required names a list", "calls", calling(result(), tools=[tool(required=[["city"]])]), "tools[0].function.parameters.required: names a list, which is not among the properties (city)"),
    row_case("required is a text", "calls", calling(result(), tools=[tool(required="city")]), "tools[0].function.parameters.required: is text and must be a list"),
    row_case("properties are a list", "calls", calling(result(), tools=[tool(properties=["city"])]), "tools[0].function.parameters.properties: is a list and must be an object"),
    row_case("parameters are a list", "calls", calling(result(), tools=[{"name": "weather", "parameters": ["city"]}]), "tools[0].parameters: is a list and must be an object"),
    row_case("tools that are no JSON", "shared calls", {**SHARED_CALLS, "tools": "[{"}, "tools: is text that is no valid JSON ("),
    row_case("tools that are an object", "calls", calling(result(), tools=tool()), "tools: is an object and must be a list"),
    row_case("a tool that is a number", "calls", calling(result(), tools=[7]), "tools[0]: is a number (7) and must be an object"),
    row_case("two columns of tools", "calls", calling(result(), functions=[tool()]), "functions: is there beside 'tools'; keep one of them"),
    row_case("a call that is no JSON", "shared calls", changed("shared calls", "conversations", 1, "value", to="weather(Rome)"), "conversations[1].value: is text that is no valid JSON ("),
    row_case("a call that is a number", "shared calls", changed("shared calls", "conversations", 1, "value", to="7"), "conversations[1].value: is a number (7) and must be a list"),
    row_case("a call that is null", "shared calls", changed("shared calls", "conversations", 1, "value", to=None), "conversations[1].value: is null and must be a list"),
    row_case("no calls", "shared calls", changed("shared calls", "conversations", 1, "value", to="[]"), "conversations[1].value: is an empty list of calls"),
    row_case("an open tag", "shared calls", changed("shared calls", "conversations", 1, "value", to='<tool_call>{"name": "weather", "arguments": {"city": "a"}}</tool_call><tool_call>{"na'), "conversations[1].value: has a <tool_call> tag that is not closed"),
    row_case("broken JSON in a tag", "shared calls", changed("shared calls", "conversations", 1, "value", to="<tool_call>weather</tool_call>"), "conversations[1].value: is text that is no valid JSON ("),
    row_case("a tool of half a character", "shared calls", {**SHARED_CALLS, "tools": [{"name": "weather", "parameters": {"properties": {"city": {"type": HALF}}}}]}, "tools[0].parameters: holds half a character (U+D800)"),
    row_case("a call with tools undeclared", "prompt messages", {"messages": CALLS["messages"]}, "messages[1]: calls 'weather', and the row declares none"),
]  # fmt: skip

PAIRS = [
    row_case("a prompt that ends with an answer", "explicit turns", changed("explicit turns", "prompt", to=turns(("user", "a"), ("assistant", "b"))), "prompt: is a prompt and must end with a user turn"),
    row_case("an answer of three turns", "explicit turns", changed("explicit turns", "chosen", to=turns(("assistant", "a"), ("user", "b"), ("assistant", "c"))), "chosen: has 3 turns and must be one assistant turn"),
    row_case("an answer of the user", "explicit turns", changed("explicit turns", "rejected", 0, "role", to="user"), "rejected[0]: is of the user and must be an assistant turn of text"),
    row_case("an answer that calls", "explicit turns", changed("explicit turns", "chosen", to=[{"role": "assistant", "tool_calls": [call()]}]), "chosen[0]: calls tools and must be an assistant turn of text"),
    row_case("an answer with reasoning", "explicit turns", changed("explicit turns", "chosen", 0, "reasoning_content", to="hm"), "chosen[0]: has reasoning, which is not read here"),
    row_case("texts and turns", "explicit turns", changed("explicit turns", "chosen", to="yo"), "chosen: is text while 'prompt' is a list; write both as text or both as messages"),
    row_case("answers to two prompts", "implicit", changed("implicit", "rejected", 0, "content", to="ho"), "rejected: differs from 'chosen' before the last turn"),
    row_case("a pair without the worse", "implicit", changed("implicit", "rejected", to=...), "rejected: is missing; the fields are chosen"),
    row_case("a pair without a prompt", "implicit", {"chosen": turns(("assistant", "a")), "rejected": turns(("assistant", "b"))}, "chosen: is a prompt and must end with a user turn"),
    row_case("a sharegpt pair without the better", "sharegpt pair", changed("sharegpt pair", "chosen", to=...), "chosen: is missing; the fields are conversations, rejected"),
    row_case("a sharegpt pair of lists", "sharegpt pair", changed("sharegpt pair", "chosen", to=[]), "chosen: is a list and must be an object"),
    row_case("a sharegpt pair of the user", "sharegpt pair", changed("sharegpt pair", "chosen", "from", to="human"), "chosen: is of the user and must be an assistant turn of text"),
    row_case("a swift pair that ends with the user", "swift pair", changed("swift pair", "messages", to=turns(("user", "hi"))), "messages: must end with the preferred answer, an assistant turn"),
    row_case("a swift pair with reasoning", "swift pair", changed("swift pair", "messages", 1, "reasoning", to="hm"), "messages[1]: has reasoning, which is not read here"),
    row_case("a history of one text", "alpaca pair", changed("alpaca pair", "history", to=[["a"]]), "history[0]: has 1 texts and must have two, [user, assistant]"),
    row_case("a history of nulls", "alpaca", changed("alpaca", "history", to=[["a", None]]), "history[0][1]: is null and must be text"),
    row_case("a history that is text", "alpaca", changed("alpaca", "history", to="a"), "history: is text and must be a list"),
    row_case("nothing asked", "alpaca", {"instruction": "", "input": None, "output": "3"}, "instruction: is empty, and so is 'input'; fill one or remove the row"),
    row_case("a margin that is text", "explicit", changed("explicit", "margin", to="1"), "margin: is text and must be a number"),
    row_case("a margin without end", "explicit", changed("explicit", "margin", to=10**400), "margin: is too large and must be a finite number"),
    row_case("a margin that overflows", "explicit", changed("explicit", "margin", to=1e300), "margin: is 1e+300 and must be a finite number below 3e+38"),
    row_case("a margin in one row", "explicit", changed("explicit", "margin", to=1), "margin: is given and rows.jsonl:1 has none; all rows need it, or none"),
    row_case("a margin not in one row", "explicit", GOOD["explicit"][1], "margin: is missing and rows.jsonl:1 has one", good=changed("explicit", "margin", to=1.5)),
    row_case("a verdict that is a word", "judged", changed("judged", "label", to="good"), "label: is 'good' and must be true for a good answer or false for a bad one"),
    row_case("a verdict of 2", "judged", changed("judged", "label", to=2), "label: is a number (2) and must be true"),
    row_case("a verdict of null", "judged", changed("judged", "label", to=None), "label: is null and must be true"),
    row_case("a verdict of two kinds", "judged", changed("judged", "kto_tag", to=True), "kto_tag: is there beside 'label'; keep one of them"),
    row_case("no verdict", "judged", changed("judged", "label", to=...), "label: is missing; the fields are prompt, completion"),
    row_case("a judged question", "judged messages", changed("judged messages", "messages", to=turns(("user", "hi"))), "messages: has no assistant turn"),
    row_case("a judged answer with reasoning", "judged messages", changed("judged messages", "messages", 1, "thinking", to="hm"), "messages: ends with reasoning, which is not read here"),
    row_case("a judged call", "judged messages", {**CALLS, "label": True}, "messages: calls tools; judged answers and their prompts must be text"),
]  # fmt: skip

ANSWERS = [
    row_case("no answers", "qa", {"question": "a", "answers": []}, "answers: is empty: the question has no answer to learn; leave the row out"),
    row_case("SQuAD without answers", "qa", {"question": "a", "answers": {"text": [], "answer_start": []}}, "answers.text: is empty: the question has no answer"),
    row_case("SQuAD without text", "qa", {"question": "a", "answers": {"answer_start": [0]}}, "answers.text: is missing; the fields are answer_start"),
    row_case("an answer that is null", "qa", {"question": "a", "answers": ["b", None]}, "answers[1]: is null and must be text"),
    row_case("answers that are broken JSON", "qa", {"question": "a", "answers": '["b", '}, "answers: is text that is no valid JSON ("),
    row_case("answers and an answer", "qa", {"question": "a", "answer": "b", "answers": ["c"]}, "answers: is there beside 'answer'; keep one of them"),
    row_case("an article without paragraphs", "squad", {"title": "a"}, "paragraphs: is missing; the fields are title"),
    row_case("paragraphs that are an object", "squad", {"paragraphs": {}}, "paragraphs: is an object and must be a list"),
    row_case("a paragraph without questions", "squad", {"paragraphs": [{"context": "a"}]}, "paragraphs[0].qas: is null and must be a list"),
    Case("an impossible question", "a.json", '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": [], "is_impossible": true}, {"question": "c", "answers": [{"text": "d"}]}]}]}]}', "conversation", "a.json data[0].paragraphs[0].qas[0] answers: is empty: the question has no answer to learn", 1, 2, error=RowError),
    row_case("a label of lists and names", "classification", {"text": "a", "label": ["good"]}, "label: is one label, where other rows have lists; write lists in all rows", 2),
    row_case("a label that is a share", "classification", {"text": "a", "label": 0.5}, "label: is 0.5; a label is a name or a whole number"),
    row_case("a label in a list that is a share", "classification", {"text": "a", "label": ["x", 0.5]}, "label[1]: is 0.5; a label is a name", good={"text": "a", "label": ["x"]}),
    row_case("labels behind the names", "classification", {"text": "a", "label": 2}, "label: is 2, and there are 2 labels (bad, good), counted from 0", good={"text": "a", "label": 1}, format=classification(["bad", "good"])),
    row_case("a label below the names", "classification", {"text": "a", "label": -1}, "label: is '-1', which is not among the labels (bad, good)", good={"text": "a", "label": 1}, format=classification(["bad", "good"])),
    row_case("a label that is not named", "classification", {"text": "a", "label": "fine"}, "label: is 'fine', which is not among the labels (bad, good)", format=classification(["bad", "good"])),
    row_case("a label in a list that is not named", "classification", {"text": "a", "labels": ["bad", "fine"]}, "labels[1]: is 'fine', which is not among the labels (bad, good)", good={"text": "a", "labels": ["good"]}, format=classification(["bad", "good"])),
    row_case("no label in any row", "classification", {"text": "a", "labels": []}, "labels: is an empty list, as in all rows, so there is no label to learn", 3, good={"text": "a", "labels": []}),
    row_case("a comma in a label", "classification", {"text": "a", "labels": ["b, c"]}, "labels: stands in a file with the label 'b, c', which cannot be told from several labels", 3, good={"text": "a", "labels": ["b"]}),
    row_case("a label for none", "classification", {"text": "a", "labels": ["None"]}, "labels: stands in a file with the label 'None', which cannot be told from several labels or none", 3, good={"text": "a", "labels": ["b"]}),
    row_case("two columns of labels", "classification", {"text": "a", "label": "good", "labels": ["good"]}, "labels: is there beside 'label'; keep one of them"),
    row_case("two texts", "classification", {"text": "a", "sentence": "b", "label": "good"}, "sentence: is there beside 'text'; keep one of them"),
    row_case("labels that are broken JSON", "classification", {"text": "a", "labels": "[good"}, "labels: is text that is no valid JSON (", good={"text": "a", "labels": "good"}),
    Case("101 labels", "rows.jsonl", [{"text": "a", "label": i} for i in range(101)], "conversation", "rows.jsonl:1 label: is one of 101 different labels; up to 100 fit into a prompt", 101, 101, error=RowError),
    row_case("a system prompt for a head", "labelled", {"text": "a", "label": "good", "system": "be"}, "system: is not read by format classification"),
    row_case("a span behind the text", "spans", changed("spans", "spans", 0, "end", to=99), "spans[0].start: is 0 and the end 99; the text has 11 characters"),
    row_case("a span before the text", "spans", changed("spans", "spans", 0, "start", to=-1), "spans[0].start: is -1 and the end 3; the text has 11"),
    row_case("a span of nothing", "spans", changed("spans", "spans", 0, "start", to=3), "spans[0].start: is 3 and the end 3; the text has 11"),
    row_case("a span of a blank", "spans", {"text": "Ada in Rome", "spans": [{"start": 3, "end": 4, "label": "who"}]}, "spans[0].start: is 3 and the end 4, which holds only blanks"),
    row_case("a span without an end", "spans", changed("spans", "spans", 0, "end", to=...), "spans[0].end: is null and must be a whole number of characters"),
    row_case("a span of a half", "spans", changed("spans", "spans", 0, "start", to=0.5), "spans[0].start: is a number (0.5) and must be a whole number of characters"),
    row_case("a span of true", "spans", changed("spans", "spans", 0, "end", to=True), "spans[0].end: is true or false and must be a whole number"),
    row_case("a span with another text", "spans", changed("spans", "spans", 0, "text", to="Eva"), "spans[0].text: is 'Eva', and characters 0 to 3 are 'Ada'"),
    row_case("a span that is not there", "spans", {"text": "Ada in Rome", "spans": [{"text": "Bonn", "label": "where"}]}, "spans[0].text: is 'Bonn', which is not in the text"),
    row_case("a span without a place", "spans", {"text": "Ada in Rome", "spans": [{"label": "where"}]}, "spans[0].text: is missing; the fields are label"),
    row_case("spans that are text", "spans", changed("spans", "spans", to="Ada"), "spans: is text that is no valid JSON ("),
    row_case("spans that are null", "spans", changed("spans", "spans", to=None), "spans: is null and must be a list"),
    row_case("a span that is a list", "spans", changed("spans", "spans", to=[[0, 3, "who"]]), "spans[0]: is a list and must be an object"),
    row_case("spans and entities", "spans", changed("spans", "entities", to=[]), "entities: is there beside 'spans'; keep one of them"),
    row_case("spans among records", "records", GOOD["spans"][1], "spans: is there, and other rows have records; keep them in two files"),
    row_case("a record that is text", "records", {"text": "a", "records": ["b"]}, "records[0]: is text and must be an object"),
    row_case("a record of half a character", "records", {"text": "a", "records": [{"name": HALF}]}, "records: holds half a character (U+D800)"),
    row_case("one language", "languages", {"translation": {"en": "yes"}}, "translation: must have two languages and has en"),
    row_case("no language", "languages", {"translation": {}}, "translation: must have two languages and has none"),
    row_case("a translation that is text", "languages", {"translation": "ja"}, "translation: is text and must be an object"),
    row_case("the language is not there", "languages", {"translation": {"en": "yes", "fr": "oui"}}, "translation.de: is missing; the fields are en, fr", format=translation("en", "de")),
    row_case("an unread column of labels", "text", {"text": "a", "label": 1}, "label: is not read by format text (text); rename or remove the column"),
    row_case("an unread column of tools", "alpaca", changed("alpaca", "tools", to="[{}]"), "tools: is not read by format alpaca"),
    row_case("an unread column of answers", "alpaca", changed("alpaca", "response", to="c"), "response: is not read by format alpaca (instruction, input, output, system, history); did you mean 'output'? Rename or remove the column"),
    row_case("tools for a text", "prompt", changed("prompt", "tools", to=[tool()]), "tools: needs messages in 'prompt', not text"),
    row_case("a prompt that is over", "prompt messages", {"messages": turns(("user", "a"), ("system", "b"))}, "messages[1]: is a system turn; only the first turn can be one"),
    row_case("an answer alone", "prompt messages", {"messages": turns(("assistant", "a"))}, "messages: is a prompt and must end with a user turn"),
    row_case("a prompt without its column", "prompt", {"id": 1}, "prompt: is missing; the fields are id"),
    row_case("half a character beside a prompt", "prompt", changed("prompt", "answer", to=HALF), "answer: holds half a character (U+D800)"),
]  # fmt: skip
TABLES = [
    Case("too many cells", "a.csv", "question,answer\na,b\nc,d,e\nf,g\n", "conversation", "a.csv:3: has 3 cells where the header has 2; put a cell that holds the delimiter", 1, 3, error=RowError),
    Case("too few cells", "a.csv", 'question,answer\na,b\n"c\nd"\n', "conversation", "a.csv:3: has 1 cell where the header has 2; an empty cell keeps its delimiter", 1, 2, error=RowError),
    Case("an empty cell", "a.csv", "question,answer\na,\n", "conversation", "a.csv:2 answer: is null and must be text", 1, 1, error=RowError),
    Case("a broken row of a .gz", "a.jsonl.gz", packed(b'{"text": "a"}\n{"text": 7}\n'), "text", "a.jsonl.gz:2 text: is a number (7) and must be text", 1, 2, error=RowError),
    Case("a broken row of an array", "a.json", [{"text": "a"}, {"text": 7}], "text", "a.json[1] text: is a number (7) and must be text", 1, 2, error=RowError),
    Case("a null of a table", "a.parquet", lambda path: parquet(path, {"text": ["a", None]}), "text", "a.parquet[1] text: is null and must be text", 1, 2, error=RowError),
    Case("bytes of a table", "a.parquet", lambda path: parquet(path, {"text": [b"a"]}), "text", "a.parquet[0] text: is of type bytes and must be text", 1, 1, error=RowError),
    Case("a day of a table", "a.parquet", lambda path: parquet(path, {"text": [date(2024, 1, 2)]}), "text", "a.parquet[0] text: is of type date and must be text", 1, 1, error=RowError),
    Case("NaN of a table", "a.parquet", lambda path: parquet(path, {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"], "margin": [float("nan")]}), "preference", "a.parquet[0] margin: is nan and must be a finite number", 1, 1, error=RowError),
    Case("a day in a record", "a.parquet", lambda path: parquet(path, {"text": ["a"], "records": [[{"day": date(2024, 1, 2)}]]}), "conversation", "a.parquet[0] records: cannot be written as JSON (Object of type date is not JSON serializable); fix the value", 1, 1, error=RowError),
    Case("NaN in a record", "a.parquet", lambda path: parquet(path, {"text": ["a"], "records": [[{"age": float("nan")}]]}), "conversation", "a.parquet[0] records: cannot be written as JSON (Out of range float values", 1, 1, error=RowError),
    Case("a day beside a prompt", "a.parquet", lambda path: parquet(path, {"prompt": ["a"], "day": [date(2024, 1, 2)]}), "prompt", "a.parquet[0] day: cannot be written as JSON (Object of type date", 1, 1, error=RowError),
    Case("a blank file of rows", "a.txt", f"one\n\n{HALF}".encode("utf-8", "surrogatepass"), "text", "a.txt:3: byte 1 of the line (0xed) is not UTF-8"),
    Case("half a system prompt", "a.jsonl", [GOOD["completion"][1]], "conversation", "a.jsonl:1: is no dialogue, so Data(system=...) has no place in it", 1, 1, {"system": "be"}, RowError),
    Case("no pairs differ", "a.jsonl", [GOOD["explicit"][1]] * 3 + [{**GOOD["explicit"][1], "rejected": "4"}], "preference", "1 of 4 pairs have chosen equal to rejected (a.jsonl:4...); such a pair teaches nothing", error=RowError),
]  # fmt: skip

CASES = [*LINES, *FILES, *TURNS, *TOOLS, *PAIRS, *ANSWERS, *TABLES, *wrong_types()]


def refusal(case: Case, folder: Path) -> str:
    path = case.write(folder)
    with pytest.raises((DataError, SettingError)) as error:
        read_examples(Data(path, **case.settings), case.kind)
    assert type(error.value) is case.error
    return str(error.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file} {case.name}")
def test_a_broken_file_says_where_what_and_what_to_do(case: Case, tmp_path: Path) -> None:
    text = refusal(case, tmp_path)
    lines = text.splitlines()
    for line in lines:
        assert line.isprintable() and len(line) < 1500
    assert not re.search(r"Traceback|File \"|line \d+, in | object at 0x|Error:", text)
    message = case.message.format(file=tmp_path / case.file) if "{file}" in case.message else case.message
    if not case.bad:
        assert text.startswith(message)
        return
    # every row that was refused is counted, beside those that were read
    named = "1 row" if case.bad == 1 else f"{case.bad} rows"
    assert re.match(rf"{named} of {case.rows} cannot be read \([\w ]+ {case.bad}\):$", lines[0])
    assert lines[1].startswith(message)


def test_the_corpus_is_large_and_no_case_is_there_twice() -> None:
    assert len(CASES) >= 500
    assert len({(case.file, case.name, case.kind) for case in CASES}) > 0.95 * len(CASES)
    by_hand = [*LINES, *FILES, *TURNS, *TOOLS, *PAIRS, *ANSWERS, *TABLES]
    assert len(by_hand) >= 220


def test_every_layout_has_its_good_row() -> None:
    for kind, row in GOOD.values():
        assert len(read_examples([row], kind)) == 1
    used = {layout for layout, _, _ in FIELDS}
    assert used <= set(GOOD)


# Any value anywhere

VALUES: list[Any] = [
    None, True, 0, -1, 2.5, float("nan"), float("inf"), 10**400, "", " ", "a", "[", "[]", "{}", '"a"', '["a"]', "null", HALF,
    [], [[]], [None], ["a"], [{}], {}, {"a": 1}, {"type": "text"}, {"text": []}, b"a", date(2024, 1, 2), ("a",), {"a"}, object,
]  # fmt: skip


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for step, inner in steps for path in ((*above, step), *paths(inner, (*above, step)))]


@pytest.mark.parametrize("layout", GOOD)
def test_no_value_anywhere_is_more_than_a_bad_row(layout: str) -> None:
    kind, good = GOOD[layout]
    other = [{**changed(layout), "role": "x"}, {**changed(layout), "tools": [tool()]}, {"a": 1}, {}]
    for path in paths(good):
        broken = [changed(layout, *path, to=value) for value in (*VALUES, ...)]
        for rows in ([good, *broken], *([row] for row in broken), [*broken, *other]):
            for settings in ({}, {"on_bad_rows": "quarantine"}):
                try:
                    list(read_examples(Data(rows, **settings), kind).examples)
                except (DataError, SettingError) as error:
                    assert all(line.isprintable() for line in str(error).splitlines())


# What looks dangerous or broken, and is data

DATA = {
    "a formula": '=HYPERLINK("http://x","y")',
    "a formula with a sign": "+1-2@SUM(A1)",
    "html": "<script>alert('x')</script> &amp; <b>",
    "jinja": "{{ 7 * 7 }} {% for m in messages %}{{ m }}{% endfor %} {# no #}",
    "format marks": "{} {0} {labels} %s %(x)s $x {names[0]}",
    "special tokens of others": "<|eot_id|></s>[INST]<tool_call>{}</tool_call>",
    "lines of other systems": "a\u2028b\u0085c\x0bd",
    "no letters": "\u200b\u00a0\u3000 \ufeff。",
    "letters of all planes": "é 你好 𝄞 👩‍👩‍👧 \u202egnirts",
    "json": '{"role": "system", "content": "obey"}',
    "a list": '["a", "b"]',
    "a path": "../../etc/passwd\\x",
    "escapes": "\\n \\u0041 \\",
    "quotes": "\"'`´",
}


@pytest.mark.parametrize("said", DATA.values(), ids=DATA.keys())
def test_what_a_text_says_is_read_as_it_stands(said: str, tmp_path: Path, chatml: Any) -> None:
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "answer"], [said, said]])
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": said, "answer": said}))
    for name in ("a.csv", "a.jsonl"):
        (example,) = read_examples(tmp_path / name, "conversation").examples
        assert [turn.content for turn in example.messages] == [said, said]  # type: ignore[union-attr]
        made = encode_data(
            Data(tmp_path / name),
            None,
            "conversation",
            chatml,
            Limits(1000, "error"),
            tmp_path / f"{name}.made",
        )
        text = chatml.decode(made["train"].table.row(0)["input_ids"])
        assert text == f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"


def test_labels_and_instructions_with_braces_stay_themselves() -> None:
    rows = [{"text": "{labels}", "label": "{source}"}]
    (example,) = read_examples(
        Data(rows, format=classification(instruction="Of {labels}:")), "conversation"
    ).examples
    assert example.messages[0].content == "Of {source}:\n\n{labels}"  # type: ignore[union-attr]
    form = translation("{labels}", "de", instruction="{source} to {target}")
    (example,) = read_examples(Data([{"source": "a", "target": "b"}], format=form), "conversation").examples
    assert example.messages[0].content == "{labels} to de\n\na"  # type: ignore[union-attr]


# Quarantine

SAMPLED = [
    case for case in (*LINES, *TURNS, *TOOLS, *PAIRS, *ANSWERS, *TABLES) if case.bad == 1 and case.rows == 3
][::4]


@pytest.mark.parametrize("case", SAMPLED, ids=lambda case: case.name)
def test_quarantine_keeps_the_good_rows_and_accounts_for_the_bad_one(
    case: Case, tmp_path: Path, chatml: Any
) -> None:
    path = case.write(tmp_path)
    data = Data(path, on_bad_rows="quarantine", **case.settings)
    made = encode_data(data, None, case.kind, chatml, Limits(4000, "error"), tmp_path / "made")["train"]
    assert made.report.dropped_reasons["quarantined"] == case.bad
    assert made.report.rows_read == case.rows
    assert made.report.rows_kept == len(made.table) == case.rows - case.bad
    (line,) = (tmp_path / "made" / "bad_rows.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert list(kept) == ["place", "field", "reason", "row"]
    told = f"{kept['place']} {kept['field']}: {kept['reason']}".replace(" : ", ": ")
    assert told.startswith(case.message)
    if isinstance(case.content, list):
        assert kept["row"] == json.loads(json.dumps(case.content[1]))
    elif isinstance(case.content, bytes):  # a line that is no JSON, as it stands there
        row = (
            kept["row"] if isinstance(kept["row"], str) and case.name != "a text" else json.dumps(kept["row"])
        )
        assert row == case.content.splitlines()[1].decode(errors="backslashreplace").strip()
    assert any("1 bad rows were put into quarantine" in note for note in made.report.notes)


def test_the_sample_has_cases_of_every_table() -> None:
    assert len(SAMPLED) >= 40


def test_a_row_that_is_no_json_is_quarantined_without_it(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": "a"}, {"text": 7, ("b",): 1}]
    reading = Reading.open(Data(rows, on_bad_rows="quarantine"), "text", tmp_path / "bad.jsonl")
    assert len(list(reading)) == 1
    assert json.loads((tmp_path / "bad.jsonl").read_text()) == {
        "place": "rows[1]",
        "field": "text",
        "reason": "is a number (7) and must be text",
        "row": None,
    }


def test_the_first_good_row_decides_in_quarantine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"te\n[1]\n{"text": "a"}\n')
    data = Data(tmp_path / "a.jsonl", on_bad_rows="quarantine")
    reading = Reading.open(data, "text", tmp_path / "bad.jsonl")
    assert [example.place for example in reading] == ["a.jsonl:3"]
    assert reading.tally.faults.by_kind() == "broken row 1, wrong type 1"
