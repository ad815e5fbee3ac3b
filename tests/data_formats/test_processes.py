"""A large file read by several processes gives, to the bit, what one process makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import Data, Kind, Limits, encode_data, processes
from posttrain.data_formats.formats.registry import OURS
from posttrain.data_formats.readers import pieces
from posttrain.errors import DataError, ProcessDiedError

ROOT = Path(__file__).resolve().parents[2]
WHOLE = 2**30
DIES = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); job = pickle.load(sys.stdin.buffer); pickle.load(sys.stdin.buffer); job.pieces.take();"


def chat(number: int, **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": f"What is {number}? é"},
        {"role": "assistant", "content": f"It is {number}."},
    ]
    return {"messages": turns, **more}


def lines(rows: list[Any], end: str = "\n") -> str:
    return end.join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)


def nasty() -> str:
    """300 rows; broken ones of one kind and of many all over the file, and ones that the template or nobody can take."""
    rows: list[Any] = [chat(i % 290) for i in range(300)]
    for i in range(5, 300, 40):
        rows[i] = '{"messages": ['
        rows[i + 1] = {"messages": [{"role": f"alien {i}", "content": "x"}]}
        rows[i + 2] = {"messages": [{"role": "user", "content": 7}]}
        rows[i + 3] = ""
        rows[i + 4] = chat(i, note="not read")
        rows[i + 5] = {"messages": chat(i)["messages"][:1]}
        rows[i + 6] = [i]
    return "\ufeff" + lines(rows, "\r\n")


@pytest.fixture
def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chatml: Any
) -> Callable[..., tuple[dict[str, bytes], Any]]:
    """made(data, workers=2): every file of the tables and the rest of what is known, with pieces of 2,000 bytes.

    With several processes, this one does not take its second piece before another process has taken one.
    """
    monkeypatch.setattr(processes, "WORTH", 1)
    make = processes._make

    def patiently(job: processes.Job, piece: pieces.Piece, work: Any) -> None:
        deadline = time.monotonic() + 120
        while piece.number and job.pieces.taken() < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        helped.append(piece.number)
        make(job, piece, work)

    helped: list[int] = []

    def run(
        data: Data,
        kind: Kind = "conversation",
        *,
        workers: int = 1,
        size: int = 2000,
        tokenizer: Any = None,
    ) -> tuple[dict[str, bytes], Any]:
        helped.clear()
        monkeypatch.setattr(pieces, "PIECE", size)
        monkeypatch.setattr(processes, "_helpers", lambda files: workers - 1)
        if workers > 1:
            monkeypatch.setattr(processes, "_make", patiently)
        folder = tmp_path / f"{workers} {size}"
        folder.mkdir()
        try:
            parts = encode_data(data, None, kind, tokenizer or chatml, Limits(200, "drop"), folder)
        except DataError as error:
            return {}, (type(error), str(error))
        finally:
            assert not (folder / "parts").exists()
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        known = {name: (part.report.as_dict(), part.questions) for name, part in parts.items()}
        if workers > 1:
            total = len(list(pieces.pieces_of([Path(data.source)])))
            assert 0 < len(helped) < total, "every process has made a part"
        return files, known

    return run


def test_rows_counts_quarantine_and_questions_are_equal(made: Any, write: Any) -> None:
    data = Data(write("a.jsonl", nasty()), on_bad_rows="quarantine", system="Be brief.")
    files, known = made(data)
    assert made(data, workers=2) == (files, known)
    whole_files, whole = made(data, size=WHOLE)
    assert (whole_files, whole) == (files, known)
    report = known["train"][0]
    assert report["dropped_reasons"]["quarantined"] == 5 * 8
    assert len(files["bad_rows.jsonl"].splitlines()) == 5 * 8
    assert any("system prompt" in note for note in report["notes"])
    assert any("columns not read: note" in note for note in report["notes"])


def test_errors_are_equal(made: Any, write: Any) -> None:
    data = Data(write("a.jsonl", nasty()))
    _, (kind, text) = made(data)
    assert made(data, workers=2)[1] == made(data, size=WHOLE)[1] == (kind, text)
    assert text.startswith("40 rows of 292 cannot be read (")
    assert "a.jsonl:6: not valid JSON" in text
    assert text.count("\n") == 21


def test_what_the_template_refuses_is_equal(made: Any, write: Any, make_tokenizer: Any) -> None:
    template = "{% for m in messages %}{% if '7' in m.content %}{{ raise_exception('no sevens') }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    tokenizer = make_tokenizer(template)
    for how in ("quarantine", "error"):
        data = Data(write("a.jsonl", nasty()), on_bad_rows=how)
        sizes = {"quarantine": 2000, "error": 2001}
        one = made(data, size=sizes[how], tokenizer=tokenizer)
        assert made(data, workers=2, size=sizes[how], tokenizer=tokenizer) == one
        assert "no sevens" in (one[0]["bad_rows.jsonl"].decode() if one[0] else one[1][1])


def test_pairs_are_compared_with_the_first_of_the_file(made: Any, write: Any) -> None:
    def pair(i: int, **more: Any) -> dict[str, Any]:
        return {"prompt": f"Q{i}", "chosen": f"A{i}", "rejected": f"A{i}" if i % 9 == 0 else "B", **more}

    rows: list[Any] = [pair(i, margin=0.5) for i in range(150)]
    rows[0] = "broken"
    rows[70] = rows[140] = pair(70)
    data = Data(write("a.jsonl", lines(rows)), on_bad_rows="quarantine")
    files, known = made(data, "preference")
    assert made(data, "preference", workers=2) == (files, known)
    assert made(data, "preference", size=WHOLE) == (files, known)
    bad = [json.loads(line) for line in files["bad_rows.jsonl"].splitlines()]
    assert [row["place"] for row in bad] == ["a.jsonl:1", "a.jsonl:71", "a.jsonl:141"]
    assert "is missing and a.jsonl:2 has one" in bad[2]["reason"]


def test_more_processes_than_pieces_and_a_helper_that_cannot_start(
    made: Any, write: Any, monkeypatch: pytest.MonkeyPatch, chatml: Any, tmp_path: Path
) -> None:
    data = Data(write("a.jsonl", lines([chat(i) for i in range(40)])))
    files, known = made(data)
    monkeypatch.setattr(processes, "HELPER", "raise SystemExit(3)")
    monkeypatch.setattr(processes, "_helpers", lambda files: 3)
    folder = tmp_path / "alone"
    parts = encode_data(data, None, "conversation", chatml, Limits(200, "drop"), folder)
    assert {name: (part.report.as_dict(), part.questions) for name, part in parts.items()} == known
    assert (folder / "raw" / "ids.values").read_bytes() == files["raw/ids.values"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("raise OSError('no room')", r"ended with exit code 1 \(OSError: no room\); nothing of its work"),
    ],
)
def test_a_process_that_dies_is_one_sentence(
    made: Any, write: Any, monkeypatch: pytest.MonkeyPatch, end: str, said: str
) -> None:
    monkeypatch.setattr(processes, "HELPER", f"{DIES} {end}")
    with pytest.raises(ProcessDiedError, match=rf"a.jsonl: a process that helped to read it {said}"):
        made(Data(write("a.jsonl", lines([chat(i) for i in range(100)]))), workers=2)


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_stays_behind(ended_by: signal.Signals, write: Any, tmp_path: Path, chatml: Any) -> None:
    chatml.save_pretrained(tmp_path / "tokenizer")
    path = write("a.jsonl", lines([chat(i) for i in range(2000)]))
    script = f"""
import time
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from posttrain.data_formats import Data, Limits, encode_data, processes
from posttrain.data_formats.readers import pieces
make = processes._make
def slowly(job, piece, work):
    make(job, piece, work)
    print("made", flush=True)
    for _ in range(6000):  # a signal that comes just before a sleep does not wake it
        time.sleep(0.1)
processes._make, pieces.PIECE, processes._helpers = slowly, 2000, lambda files: 1
tokenizer = PreTrainedTokenizerFast.from_pretrained({str(tmp_path / "tokenizer")!r})
encode_data(Data({str(path)!r}), None, "conversation", tokenizer, Limits(200, "drop"), Path({str(tmp_path / "out")!r}))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        assert parent.stdout is not None and parent.stdout.readline() == b"made\n"
        (helper,) = children_of(parent.pid)
        parent.send_signal(ended_by)
        parent.wait(60)
        deadline = time.monotonic() + 60
        while is_alive(helper) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_alive(helper)
    finally:
        parent.kill()
        parent.wait()


def children_of(process: int) -> list[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(child) for some in found for child in some]


def is_alive(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def own_format() -> Mapping[str, Any]:
    ours = next(known for known in OURS if known.name == "openai_messages" and known.kind == "conversation")
    return {"format": replace(ours, name="mine")}


@pytest.mark.parametrize("settings", [{"limit": 50}, own_format()], ids=["a limit", "a format of one's own"])
def test_what_another_process_could_not_do_alike_stays_here(
    write: Any, monkeypatch: pytest.MonkeyPatch, chatml: Any, tmp_path: Path, settings: Mapping[str, Any]
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 2000)
    monkeypatch.setattr(processes, "_helpers", lambda files: 1)
    monkeypatch.setattr(subprocess, "Popen", None)
    data = Data(write("a.jsonl", lines([chat(i) for i in range(100)])), **settings)
    made = encode_data(data, None, "conversation", chatml, Limits(200, "drop"), tmp_path / "out")
    assert made["train"].report.rows_read + made["held_out"].report.rows_read == (
        settings.get("limit") or 100
    )


def test_small_files_need_no_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4, 5, 6, 7})
    for size, helpers in (
        (processes.WORTH - 1, 0),
        (processes.WORTH, 1),
        (3 * processes.WORTH, 3),
        (99 * processes.WORTH, 3),
    ):
        with path.open("wb") as file:
            file.truncate(size)
        assert processes._helpers([path]) == helpers
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5})
    assert processes._helpers([path]) == 0
