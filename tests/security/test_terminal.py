"""What models, files and folders say is printed, and steers no terminal: no cursor, window name, link or clipboard."""

from pathlib import Path

import pytest

from posttrain.cli import _guarded
from posttrain.commands.runs import runs
from posttrain.errors import DataError
from posttrain.pipeline import Run
from posttrain.pipeline.launch import Launch, Started
from posttrain.pipeline.printing import print_summary
from tests.posttrain.report.runs import RunFolder

SEQUENCES = {
    "the screen cleared": "\x1b[2J", "the window renamed": "\x1b]0;mine\x07", "the clipboard": "\x1b]52;c;bWluZQ==\x07", "a link": "\x1b]8;;http://127.0.0.1:9/\x1b\\",
    "a line written over": "right\rwrong", "steps back": "ab\b\b", "the C1 form": "\x9b2J", "the direction of writing": "\u202e", "zero width": "\u200b", "markup": "[link=http://127.0.0.1:9/]x[/link][conceal]y",
}  # fmt: skip


def bare(said: str) -> list[str]:
    """Characters of a text that a terminal would obey."""
    return [one for one in said if not (one.isprintable() or one in "\n\t")]


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_answer_steers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = SEQUENCES[name]
    run = RunFolder(tmp_path / "run", ["sft"])
    samples = [{"prompt": text, "answer": text, "before": text}]
    run.finish(run.begin("sft"), "sft", samples=samples, data={})
    print_summary(Run.load(run.write()))
    said = capsys.readouterr().out
    assert bare(said) == [] and "after:" in said
    assert name != "markup" or said.count(text) >= 2


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_folder_and_its_error_steer_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text = SEQUENCES[name].replace("/", "∕")
    folder = RunFolder(tmp_path / f"a{text}", ["sft"]).write()
    Launch(("sft",), Started(str(tmp_path)), 1.0, "failed", 2.0, f"DataError: {text}").write(folder)
    runs(tmp_path, json=False)
    said = capsys.readouterr().out
    assert bare(said) == [] and "failed" in said
    assert name != "markup" or "[conceal]" in said.replace("\n", "")


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_error_steers_nothing(capsys: pytest.CaptureFixture[str], name: str) -> None:
    def fails() -> None:
        raise DataError(f"chat.jsonl:1 has {SEQUENCES[name]}")

    with pytest.raises(SystemExit):
        _guarded(fails)
    assert bare(capsys.readouterr().err) == []
