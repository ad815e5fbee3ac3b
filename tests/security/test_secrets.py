"""Canaries through every door: afterwards none of them stands in any file of the run folder, or on the screen."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posttrain import Pipeline, StageContext, StageResult
from posttrain.cli import _guarded
from posttrain.errors import PosttrainError, RecipeError
from posttrain.pipeline.launch import Launch, Started
from posttrain.pipeline.secrets import holds_secret, looks_secret, redacted, without_secrets
from posttrain.recipe_files import changed, read_yaml
from posttrain.report import write_report
from tests.pipeline.test_run import Write

HEX = "c0ffee" * 6 + "cafe"
FORMS: Mapping[str, str] = {
    "Hub": "hf_CanaryCanaryCanary01", "OpenAI": "sk-proj-CanaryCanary02", "GitHub": "ghp_CanaryCanaryCanary03", "GitHub, new": "github_pat_CanaryCanaryCanary04",
    "AWS": "AKIACANARYCANARY0005", "Slack": "xoxb-canary-canary06", "wandb, new": "wandb_v1_CanaryCanaryCanary07", "signed": "eyJDYW5hcnlDYW5hcnkwOA.eyJhIjoxfQ.c2lnbmVk",
}  # fmt: skip
NAMED: Mapping[str, str] = {
    "login of an address": "https://me:CanaryPass09@host/x", "login of a database": "postgres://me:CanaryPass10@host:5432/x", "query": "https://host/x?a=1&token=CanaryToken11&b=2",
    "header": "Authorization: Bearer CanaryBearer12", "assignment": "password=CanaryPass13", "JSON": '{"api_key": "CanaryKey14"}', "YAML": "hub_token: CanaryToken15",
    "Python": "login(access_token='CanaryToken16')", "wandb, old": f"wandb login {HEX}", "wandb's variable": f"WANDB_API_KEY={HEX}",
}  # fmt: skip
VARIABLES: Mapping[str, str] = {
    "HF_TOKEN": "plain-canary-17", "WANDB_API_KEY": HEX, "AWS_SECRET_ACCESS_KEY": "plain/canary+18", "DB_PASSWORD": "plain canary 19", "MY_KEY": "plaincanary20",
    "SOME_CREDENTIALS": "plain~canary~21", "service_token": "plain:canary:22",
}  # fmt: skip
CANARIES = ("anary", HEX)  # a part of each


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("text", [*FORMS.values(), *NAMED.values(), *VARIABLES.values()])
@pytest.mark.parametrize("around", ["{}", "before {} behind", "'{}',", "({})\n"])
def test_a_secret_is_taken_out_of_a_text(text: str, around: str) -> None:
    found = redacted(around.format(text))
    assert not [one for one in CANARIES if one in found]
    assert found.startswith(around.partition("{")[0]) and "***" in found


PLAIN = [
    "revision=0123456789abcdef0123456789abcdef01234567", "commit " + "89abcdef01" * 4, "sha256 " + "0123456789abcdef" * 4, "https://huggingface.co/org/model", "me@host.example",
    "pad_token='<|endoftext|>'", "set tokenizer.eos_token; max_new_tokens=512", "tokens: 123456", "the secret of it is patience", "key: value", "sk-1", "hf_x",
    "git@github.com:org/name.git", "a token table of 8 columns", "https://host/x?a=1&b=2", "2026-01-01T00:00:00Z", "learning_rate=2e-05", "the password is asked for",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not holds_secret("text", text)


@pytest.mark.parametrize("name", ["token", "hub_token", "--hf-token", "api_key", "--api-key", "client_secret", "password", "db_password", "access_key"])  # fmt: skip
def test_a_name_is_enough(name: str) -> None:
    assert looks_secret(name, "anything") and holds_secret(name, "anything")
    assert without_secrets({"a": [{name: "anything"}]}) == {"a": [{name: "***"}]}


@pytest.mark.parametrize(
    "name", ["pad_token", "eos_token", "max_new_tokens", "tokenizer", "key", "keys", "data"]
)
def test_other_names_are_none(name: str) -> None:
    assert not looks_secret(name, "anything")


@dataclass(frozen=True)
class Holds(Write):
    """A stage of somebody's own, with settings that hold secrets; what it fails with holds all others."""

    api_key: str = field(default="", kw_only=True)
    address: str = field(default="", kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    says: str = field(default="", kw_only=True)

    def run(self, context: StageContext) -> StageResult:
        if self.says:
            raise RuntimeError(self.says)
        return super().run(context)


ALL = [*FORMS.values(), *NAMED.values(), *VARIABLES.values()]
TRACKERS = ["none", "tensorboard", pytest.param("wandb", marks=pytest.mark.slow)]


def found_below(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [f"{path.name}: {one}" for path in files for one in CANARIES if one.encode() in path.read_bytes()]


@pytest.mark.parametrize("track", TRACKERS)
def test_no_secret_is_left_in_a_run(
    track: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through the environment, the command line, settings of a stage, and the text of an error."""
    monkeypatch.setattr(
        sys,
        "argv",
        ["/x/train.py", "--hub-token", "CanaryArgument", f"--model={ALL[8]}", *ALL[:8], *VARIABLES.values()],
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    holds = {"api_key": "CanarySetting", "address": NAMED["login of an address"], "notes": tuple(ALL)}
    good, bad = Holds("a", name="s1", **holds), Holds("b", name="s2", says="\n".join(ALL), **holds)
    for stages in ([good], [good, bad]):
        pipeline = Pipeline(stages, model="tiny-random", run_dir=tmp_path / "run", track=track)
        try:
            pipeline.run()
        except RuntimeError as error:
            assert stages[-1] is bad and str(error) == bad.says
    if track == "wandb":
        import wandb

        wandb.teardown()  # writes the files to their ends
    write_report(tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "RuntimeError" in text and "***" in text
    assert found_below(tmp_path / "run") == []
    said = capfd.readouterr()
    assert not [one for one in CANARIES if one in said.out + said.err]


@pytest.mark.parametrize("text", ALL[:10])
@pytest.mark.parametrize("where", ["value", "in a list", "--set"])
def test_a_recipe_with_a_secret_is_refused_and_not_repeated(tmp_path: Path, text: str, where: str) -> None:
    if where == "--set":
        path, give = tmp_path / "r.yaml", (f'data="{text}"',)
        path.write_text("model: tiny-random\nstages: [SFT]\n")
    else:
        path, give = tmp_path / "r.yaml", ()
        path.write_text(f"model: tiny-random\ndata: {[text] if where == 'in a list' else repr(text)}\n")
    with pytest.raises(RecipeError, match="looks like a secret") as caught:
        changed(read_yaml(path, path.name), give)
    assert not [one for one in CANARIES if one in str(caught.value)]


@pytest.mark.parametrize("text", ALL)
def test_a_recipe_with_a_secret_in_a_comment_is_not_kept(tmp_path: Path, text: str) -> None:
    started = Started.by_recipe(f"stages: [SFT]  # {text}\n", "r.yaml", ())
    Launch(("sft",), started, 1.0).write(tmp_path)
    assert "looks like a secret" in started.why_not
    assert found_below(tmp_path) == []


def test_a_recipe_without_one_is_kept() -> None:
    started = Started.by_recipe("stages: [SFT]\n", "r.yaml", ("seed=1",))
    assert (started.recipe, started.changes, started.why_not) == ("stages: [SFT]\n", ("seed=1",), "")


def test_an_error_is_said_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise PosttrainError(" and ".join(ALL))

    with pytest.raises(SystemExit):
        _guarded(fails)
    said = capsys.readouterr().err
    assert not [one for one in CANARIES if one in said] and said.count("***") >= len(ALL)
