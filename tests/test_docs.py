"""What the README and the docs show is true: blocks run, commands exist, links lead somewhere, languages agree."""

import ast
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import posttrain
from posttrain import SFT, Classifier, Full, LoRA, Pipeline, RewardModel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CHINESE = {
    ROOT / "README.md": ROOT / "README.zh-CN.md",
    **{DOCS / page.name: page for page in sorted((DOCS / "zh").glob("*.md"))},
}
PAGES = sorted({*CHINESE, *CHINESE.values(), *DOCS.glob("*.md")})
ENGLISH = [page for page in PAGES if page not in CHINESE.values()]
INTRODUCTIONS = ("stages.md", "strategies.md")  # of these pages the Chinese one is the beginning

Block = tuple[str, str]  # language, text


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Every fenced block; those without a language are pictures."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def blocks_of(language: str) -> list[Any]:
    """The English pages with such blocks, as parameters; the Chinese ones have the same blocks."""
    found = {page: [text for kind, text in blocks(page) if kind == language] for page in ENGLISH}
    return [pytest.param(page, texts, id=named(page)) for page, texts in found.items() if texts]


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


# Python and YAML


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that made all that the pages ask a run for."""
    from posttrain.stages.forgetting import limits
    from tests.conftest import SMALL_FORGETTING, make_rows

    rows = make_rows(24)
    labelled = [{"text": row["text"], "label": ("bad", "good")[i % 2]} for i, row in enumerate(rows["text"])]
    stages = [
        SFT(LoRA(r=2), data=rows["chat"], max_steps=1),
        RewardModel(LoRA(r=2), data=rows["pairs"], max_steps=1),
        Classifier(LoRA(r=2), data=labelled, max_steps=1),
    ]
    folder = tmp_path_factory.mktemp("docs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_FORGETTING.items():
            patch.setattr(limits, name, value)
        patch.setattr("posttrain.stages.samples._NEW_TOKENS", 8)
        return Pipeline(stages, model="tiny-random", run_dir=folder, seed=0).run()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody who reads the docs: files by the names that the pages use."""
    from posttrain.data_formats import sample
    from posttrain.data_formats.formats import registry

    monkeypatch.chdir(tmp_path)
    files = {
        "chat": "conversation", "zh": "conversation", "math": "conversation", "pairs": "preference",
        "pairs_test": "preference", "judged": "preference", "prompts": "prompt", "problems": "prompt",
    }  # fmt: skip
    for name, kind in files.items():
        Path(f"{name}.jsonl").write_text(sample(kind).read_text("utf-8"), "utf-8")  # type: ignore[arg-type]
    Path("notes.txt").write_text("A paragraph.\n\nAnother one.\n")
    Path("questions.csv").write_text("question,answer\nWhy?,Because.\n")
    Path("faq.csv").write_text("question,answer\nWhy?,Because.\n")
    Path("reviews.csv").write_text("text,label\nFine.,good\nPoor.,bad\n")
    Path("entities.jsonl").write_text('{"text": "Ada rides.", "spans": [{"text": "Ada", "label": "name"}]}\n')
    Path("translations.jsonl").write_text('{"source": "Good day", "target": "Guten Tag"}\n')
    Path("rewards.py").write_text("def polite(prompts, completions, **_):\n    return [0.0] * len(prompts)\n")
    monkeypatch.setattr(registry, "_FORMATS", list(registry._FORMATS))
    return tmp_path


@pytest.mark.parametrize(("page", "texts"), blocks_of("python"))
def test_python_runs(
    page: Path, texts: list[str], desk: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page, in order, by somebody who has imported posttrain and has a finished run.

    Pipelines are built and checked; those on the tiny random model are trained, others give the finished run.
    """
    train = Pipeline.run

    def run(pipeline: Pipeline, *given: Any) -> Any:
        return train(pipeline, *given) if pipeline.model == "tiny-random" else finished

    monkeypatch.setattr(Pipeline, "run", run)
    monkeypatch.setattr(Pipeline, "load", classmethod(lambda _, folder: finished))
    monkeypatch.setattr("posttrain.stages.harness.find_spec", lambda _: object())
    monkeypatch.setattr("openai.resources.chat.completions.Completions.create", lambda _, **asked: asked)
    (desk / "runs").mkdir()
    for name in ("other", "x", "style", "agent"):
        (desk / "runs" / name).symlink_to(finished.folder)
    names: dict[str, Any] = {name: getattr(posttrain, name) for name in posttrain.__all__}
    names |= {"lora": LoRA(r=16), "run": finished}
    for text in texts:
        exec(compile(text, f"{named(page)}: {text.splitlines()[0]}", "exec"), names)


def test_the_stage_of_the_docs_runs(tmp_path: Path) -> None:
    block, _ = (text for kind, text in blocks(DOCS / "extending.md") if kind == "python")
    names: dict[str, Any] = {}
    exec(block, names)
    run = Pipeline([names["Greedy"]("Hello?")], model="tiny-random", run_dir=tmp_path / "run").run()
    assert run["greedy"].samples[0]["prompt"] == "Hello?"
    assert run["greedy"].samples[0]["answer"].startswith("Hello?")
    assert run.model == run.start


@pytest.mark.parametrize(("page", "texts"), blocks_of("yaml"))
def test_yaml_builds(page: Path, texts: list[str], desk: Path) -> None:
    from posttrain.recipe_files import build, read_yaml

    recipes = [text for text in texts if not text.startswith("# yaml-language-server")]
    assert recipes
    sys.modules.pop("rewards", None)  # the file of the test before
    for text in recipes:
        assert build(read_yaml(text, page.name)).stages


def test_the_yaml_of_the_docs_says_what_its_python_says(desk: Path) -> None:
    from posttrain import CPT, GRPO, Data
    from posttrain.recipe_files import build, read_yaml

    recipe, schema = (text for kind, text in blocks(DOCS / "command-line.md") if kind == "yaml")
    assert schema.startswith("# yaml-language-server")
    sys.modules.pop("rewards", None)
    *first, grpo = build(read_yaml(recipe, "recipe.yaml")).stages
    faq = Data("faq.csv", format="qa", limit=1000)
    assert first == [
        CPT(LoRA(r=16), data="notes.txt"),
        SFT(LoRA(r=16), data=["chat.jsonl", faq], epochs=2, learning_rate=1e-4),
        RewardModel(LoRA(r=16), data="pairs.jsonl"),
    ]
    assert isinstance(grpo, GRPO) and grpo.strategy == Full() and grpo.reward.__name__ == "polite"  # type: ignore[union-attr]


# Commands


def commands(page: Path) -> Iterator[str]:
    """What a page says to type: lines of its sh blocks, and pieces of its text that begin with a command of ours."""
    for kind, text in blocks(page):
        if kind == "sh":
            yield from (line for line in text.replace("\\\n", " ").splitlines() if line.strip())
    for quoted in re.findall(r"`((?:posttrain|python recipes/|make) ?[^`]+)`", without_blocks(page)):
        yield quoted.replace("\\|", "|")


def check_ours(words: list[str]) -> None:
    """Raises where the command line would not take these words; nothing is run."""
    from typer.main import get_command

    from posttrain.cli import app

    group = get_command(app)
    asked = [word for word in words if word != "--help"]
    if not asked or asked in (["COMMAND"], ["--install-completion"]):
        return
    context = group.make_context("posttrain", [asked[0]], resilient_parsing=True)
    command = group.get_command(context, asked[0])  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {asked[0]}"
    resilient = len(asked) == 1  # named in a sentence, without what it is used on
    made = command.make_context(asked[0], asked[1:], parent=context, resilient_parsing=resilient)
    a_script = any(word.endswith(".py") for word in asked)  # which has flags of its own
    assert a_script or not made.args, f"{asked[0]} has no {made.args}"


def check_recipe(script: str, words: list[str]) -> None:
    """Raises where a packaged recipe is not there, or has not these flags."""
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    flags = {f"--{name.replace('_', '-')}" for name in re.findall(r"(\w+): ", path.read_text("utf-8"))}
    assert {word for word in words if word.startswith("--")} <= flags | {"--help"}, f"{script} {words}"


def check_line(line: str) -> None:
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        if word == "posttrain" and (at == 0 or words[at - 1] == "-m"):
            rest = words[at + 1 :]
            return check_ours(rest[: rest.index(">")] if ">" in rest else rest)
        if re.fullmatch(r"recipes/\w+\.py", word):
            return check_recipe(word, words[at + 1 :])
    if words and words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets), line
    return None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    for line in commands(page):
        try:
            check_line(line)
        except Exception as error:
            pytest.fail(f"{named(page)}: `{line}`: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "posttrain show --fast RUN",
        "posttrain plan --memory",
        "posttrain plan x.yaml --fast",
        "posttrain fly",
        "make tea",
    ],
)
def test_a_wrong_command_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"fast|memory|fly|tea"):
        check_line(line)


# Links


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", without_blocks(page)):
        if re.match(r"https?:", target):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{named(page)} links to {target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in CHINESE.values() if page.exists()], ids=named)
def test_chinese_pages_link_to_chinese_pages(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+\.md)", without_blocks(page)):
        path = (page.parent / target).resolve()
        assert path not in CHINESE or path.name in ("README.md", *INTRODUCTIONS), (
            f"{named(page)} links to {target}"
        )


# Both languages


def plain(block: Block) -> str:
    """A block without its comments, which are in the page's language."""
    return re.sub(r"(^|\s+)#(?! yaml-language-server).*$", "", block[1], flags=re.MULTILINE).strip()


@pytest.mark.parametrize(("english", "chinese"), CHINESE.items(), ids=[named(page) for page in CHINESE])
def test_languages_are_in_step(english: Path, chinese: Path) -> None:
    assert english.is_file(), f"{named(chinese)} is of no English page"
    pair = (english, chinese)
    if english.name not in INTRODUCTIONS:
        levels = [re.findall(r"^(#+) ", without_blocks(page), flags=re.MULTILINE) for page in pair]
        assert levels[0] == levels[1], "the headings differ"
        rows = [len(re.findall(r"^\|", without_blocks(page), flags=re.MULTILINE)) for page in pair]
        assert rows[0] == rows[1], "the tables differ"
        codes = [[(b[0], plain(b)) for b in blocks(page) if b[0]] for page in pair]
        assert codes[0] == codes[1]
        numbers = [sorted(re.findall(r"\d+\.\d+|\d{3,}", without_blocks(page))) for page in pair]
        assert numbers[0] == numbers[1], "the figures differ"
    text = chinese.read_text("utf-8")
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 200, "this is no Chinese page"


def test_the_chinese_pages_are_there() -> None:
    assert len(CHINESE) == 24, "a page came or went: change the number, and mkdocs.yml"
    for english, chinese in CHINESE.items():
        if english.name == "README.md":
            assert f"({chinese.name})" in english.read_text() and f"({english.name})" in chinese.read_text()


# From the code


def make_docs() -> Any:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("planned", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tables_are_what_the_code_says(planned: bool) -> None:
    """The planner's tables build each model without weights, which takes a while."""
    for page, text in make_docs().pages(planned):
        assert page.read_text("utf-8") == text, f"{named(page)}: run python scripts/make_docs.py"


def test_every_table_is_on_a_page_and_every_word_of_the_code_has_its_chinese() -> None:
    made = make_docs()
    used = {name for page in PAGES for name in re.findall(r"<!-- table: (.+?) -->", page.read_text("utf-8"))}
    assert used == set(made.TABLES)
    stages = {kind.__name__ for kind in made._stage_kinds()}
    assert stages <= made.ZH.keys(), "scripts/make_docs.py describes no such stage in Chinese"


@pytest.mark.parametrize("page", [DOCS / "command-line.md", DOCS / "zh" / "command-line.md"], ids=named)
def test_the_command_line_page_has_every_command(page: Path) -> None:
    from posttrain.cli import _COMMANDS

    text = page.read_text("utf-8")
    missing = [command.__name__ for command in _COMMANDS if f"`posttrain {command.__name__}" not in text]
    assert not missing and len(_COMMANDS) >= 15


def test_the_site_has_every_page() -> None:
    """mkdocs.yml has tags that a plain YAML reader refuses, so its text is read."""
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/-]+\.md)", nav))
    found = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert found <= listed, "put it into the nav of mkdocs.yml"


def test_what_other_tools_settings_are_mapped_to_is_real() -> None:
    """docs/coming-from.md: the pieces of code in its last column call what there is, with settings that it has."""
    rows = re.findall(r"^\|(.+)\|$", without_blocks(DOCS / "coming-from.md"), flags=re.MULTILINE)
    here = [piece for row in rows for piece in re.findall(r"`([^`]+)`", row.rsplit(" | ", 1)[-1])]
    used = [check_mapping(piece) for piece in here]
    assert sum(used) > 100


def check_mapping(piece: str) -> bool:
    """Whether a piece of code is `Name(setting=...)` or `setting=...`; raises where these are none of ours."""
    from posttrain.recipe_files.forms import Form

    public = {name: getattr(posttrain, name) for name in posttrain.__all__}
    if re.fullmatch(r"[A-Z]\w+(\(\))?", piece):
        assert piece.removesuffix("()") in public, piece
        return True
    if not re.match(r"\w+(=|\()", piece):
        return False  # a command, an attribute, or a word
    keyword = re.match(r"\w+=", piece)
    call = ast.parse(f"any_stage({piece})" if keyword else piece, mode="eval").body
    assert isinstance(call, ast.Call)
    owners = list(map(stage_or_strategy, public)) if keyword else [ast.unparse(call.func)]
    known = {name for owner in owners if owner for name in Form.of(public[owner]).settings}
    for each in call.keywords:
        assert each.arg in known, piece
        if each.arg == "trainer_args":
            assert ast.literal_eval(each.value).keys() <= trainer_fields(), piece
    return True


def stage_or_strategy(name: str) -> str | None:
    one = getattr(posttrain, name)
    kinds = (posttrain.Stage, posttrain.Strategy)
    return name if inspect.isclass(one) and issubclass(one, kinds) else None


def trainer_fields() -> set[str]:
    from dataclasses import fields

    from posttrain.stages.ppo.stage import PPOArguments
    from posttrain.stages.trl_api import config_fields

    return (
        {field.name for field in fields(PPOArguments)}
        | set(config_fields("sft"))
        | set(config_fields("grpo"))
    )
