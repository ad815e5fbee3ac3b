"""`posttrain chat` with piped input: who answers, and that it is that stage's own answer."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain import cli
from posttrain.pipeline import Run
from posttrain.pipeline.base_models import shared_tokenizer
from posttrain.pipeline.printing import printable
from posttrain.serving.dialogue import Speaker
from tests.posttrain.serving.runs import generated, random_lora, write_run

Talk = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(
        tmp_path_factory.mktemp("chat") / "run", {"sft": random_lora(1, 4), "dpo": random_lora(2, 4)}
    )


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    def typed(which: object, *lines: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["posttrain", "chat", str(which), "--max-tokens", "6", "--temperature", "0"]
        )
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return typed


def said(run: Run, stage: str, *texts: str, system: str = "") -> str:
    """The stage's own greedy answer to the last text."""
    ref = run.start if stage == "base" else run[stage].models["policy"]
    tokenizer = shared_tokenizer(ref.find().folder)
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    first = [{"role": "system", "content": system}] if system else []
    ids = Speaker(tokenizer).prompt({"messages": [*first, *messages]})
    return str(tokenizer.decode(generated(ref, ids, 6), skip_special_tokens=True))


def test_stages_answer_by_name_and_the_dialogue_goes_on(run: Run, talk: Talk) -> None:
    one = said(run, "dpo", "Hi")
    code, out, err = talk(
        run.folder, "Hi", "and?", "/stage sft", "Hi", "/system Be brief.", "Hi", "/quit", "never read"
    )
    assert (code, err) == (0, "")
    want = [
        one,
        said(run, "dpo", "Hi", one, "and?"),
        "sft answers",
        said(run, "sft", "Hi"),
        "The system prompt",
    ]
    want.append(said(run, "sft", "Hi", system="Be brief."))
    places = [out.find(printable(text)) for text in want]
    assert -1 not in places
    assert places == sorted(places)


def test_two_stages_are_compared(run: Run, talk: Talk) -> None:
    code, out, _ = talk(
        f"{run.folder}:base", "/compare sft", "Hi", "/compare", "Hi", "/reset", "/stage", "/nonsense"
    )
    assert code == 0
    base, sft = said(run, "base", "Hi"), said(run, "sft", "Hi")
    assert f"[base]\n{printable(base)}\n[sft]\n{printable(sft)}\n" in out
    assert "base answers alone." in out
    assert "There are: base, sft, dpo." in out
    assert "There is no /nonsense. /stage NAME" in out


def test_what_is_not_there_is_said(run: Run, talk: Talk, tmp_path: Path) -> None:
    code, _, err = talk(f"{run.folder}:ppo", "Hi")
    assert code == 2
    assert "There is no stage 'ppo' to talk with; there are base, sft, dpo." in err
    code, _, err = talk(run.folder, "/compare ppo", "/stage x")
    assert code == 0
    assert err.count("there are base, sft, dpo") == 2
    assert talk(tmp_path, "Hi")[0] == 2


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\x07\n\tc\x9b\u202e") == "a␛[2Jb␍␇\n\tc\ufffd\ufffd"
