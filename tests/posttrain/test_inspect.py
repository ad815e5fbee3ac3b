"""`posttrain inspect`: what it prints, its exit codes, and that it is light without a model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import posttrain
from posttrain.data_formats.inspection import KINDS
from posttrain.data_formats.inspection_page import TAKEN_BY
from posttrain.errors import SettingError
from posttrain.inspecting import inspect_file

HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "tokenizers", "trl", "peft", "accelerate")
SYSTEM = (
    "<|im_start|>system↵\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>↵\n"
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "posttrain", "inspect", *words], capture_output=True, text=True
    )


def dialogue(question: Any, answer: Any, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


GOOD = [dialogue("Hi", "Hello"), dialogue("1+1?", " two\n")]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


def test_faults_are_printed_and_exit_with_1(write: Callable[..., Path]) -> None:
    rows = [*GOOD, GOOD[0], dialogue("", "x"), *[dialogue("x", number) for number in range(24)]]
    done = run(str(write("chat.jsonl", [*rows, dialogue("[bold]a[/]", "b", **{"[red]tag": 1})])))
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert "  kind               conversation, for SFT" in lines
    assert "  rows               29" in lines
    assert "  bad rows           25: empty 1, wrong type 24" in lines
    assert "  duplicates         1: each says what an earlier row says" in lines
    assert any("columns not read: " in line and "[red]tag" in line for line in lines)  # no markup is read
    # user: Hi, 1+1?, Hi, [bold]a[/]
    assert "  characters of user               2          10          10" in lines
    listed = [line for line in lines if line.startswith("  - chat.jsonl:")]
    assert listed[0].startswith("  - chat.jsonl:4 messages[0].content: is empty")
    assert len(listed) == 20
    assert "  ... and 5 more" in lines
    assert lines[-1].startswith("25 of 29 rows are bad: ")


def test_a_good_file_exits_with_0(write: Callable[..., Path]) -> None:
    done = run(str(write("chat.jsonl", GOOD)))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "All 2 rows are good.")


def test_what_cannot_be_read_exits_with_2(tmp_path: Path, write: Callable[..., Path]) -> None:
    missing = run(str(tmp_path / "nowhere.jsonl"))
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr.startswith(f"DataFileError: {tmp_path / 'nowhere.jsonl'}: there is no such file.")
    assert run(str(write("odd.jsonl", [{"a": 1}]))).returncode == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "conversaton"}, "Did you mean 'conversation'"),
        ({"max_length": 5}, "--max-length is about tokens"),
        ({"rows": 0}, "--rows is about tokens"),
        ({"format": "alpcaa"}, "Did you mean 'alpaca'"),
        ({"page": Path("chat.jsonl")}, "ending in .html"),
        ({"page": Path("/proc/nowhere/page.html")}, "cannot be written"),
    ],
)
def test_settings_that_cannot_be_followed(
    write: Callable[..., Path], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        inspect_file(str(write("chat.jsonl", GOOD)), **settings)


@pytest.mark.parametrize("words", [["inspect", "{file}"], ["inspect", "--help"], ["--help"]])
def test_nothing_heavy_is_imported_without_a_model(write: Callable[..., Path], words: list[str]) -> None:
    words = [word.format(file=write("chat.jsonl", GOOD)) for word in words]
    code = (
        f"import sys; sys.argv = ['posttrain', *{words}]\n"
        "from posttrain.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n"), done.stdout


def test_the_stages_of_a_kind_are_those_that_take_it() -> None:
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for name in posttrain.__all__:
        kind = getattr(getattr(posttrain, name), "kind", None)
        if kind in found:
            found[kind].add(name)
    assert {kind: set(names.split(", ")) for kind, names in TAKEN_BY.items()} == {
        kind: names for kind, names in found.items() if names
    }


def test_a_pipe_gets_trained_text_in_brackets_and_whole_lines(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "many words " * 20
    path = write(
        "chat.jsonl", [*GOOD, dialogue("[bold]x[/]", f"⟪{long}⟫ :smile: \x1b[31m"), dialogue(1, "x")]
    )
    page = tmp_path / "new" / "page.html"
    assert not inspect_file(str(path), model="tiny-random", max_length=200, page=page)
    printed = capsys.readouterr().out
    ask = "<|im_start|>user↵\n{}<|im_end|>↵\n<|im_start|>assistant↵\n⟦{}<|im_end|>⟧↵\n"
    assert SYSTEM + ask.format("Hi", "Hello") in printed
    assert SYSTEM + ask.format("1+1?", " two↵\n") in printed
    assert SYSTEM + ask.format("[bold]x[/]", f"⟪{long}⟫ :smile: ␛[31m") in printed
    assert "⟦trained⟧, not trained" in printed
    assert "kept 3 of 4 rows, 1 dropped (1 bad)" in printed
    assert "max_length 200 ---" in printed
    assert f"written as a page: {page}\n" in printed
    assert "\x1b" not in printed
    assert "<mark>Hello&lt;|im_end|&gt;</mark>" in page.read_text("utf-8")
    assert [one.name for one in page.parent.iterdir()] == ["page.html"]  # nothing is left beside it


def test_a_terminal_gets_trained_text_in_green(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    path = str(write("chat.jsonl", GOOD))
    inspect_file(path, model="tiny-random", rows=2)
    printed = capsys.readouterr().out
    assert "\x1b[32mHello<|im_end|>\x1b[0m\x1b[2m↵\x1b[0m" in printed
    assert "\x1b[32m·two↵\x1b[0m\n\x1b[32m<|im_end|>\x1b[0m" in printed  # the space at the border is seen
    assert "⟦" not in printed
    monkeypatch.setenv("NO_COLOR", "1")
    inspect_file(path, model="tiny-random", rows=1)
    printed = capsys.readouterr().out
    assert "⟦Hello<|im_end|>⟧↵" in printed
    assert "chat.jsonl:2" not in printed


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int,
) -> None:
    from rich.cells import cell_len
    from rich.text import Text

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [dialogue("细胞理论和日心说。" * 20, "word " * 50), dialogue("Hi", 7), {"messages": []}]
    path = write("chat.jsonl", rows)
    inspect_file(str(path), model="tiny-random", max_length=300)
    lines = [line for line in capsys.readouterr().out.splitlines() if str(path) not in line]
    assert max(cell_len(Text.from_ansi(line).plain) for line in lines) <= width
