"""What the README and the docs show is true."""

import re
from pathlib import Path
from typing import Any

from posttrain import Pipeline

ROOT = Path(__file__).resolve().parents[1]


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_the_stage_of_the_docs_runs(tmp_path: Path) -> None:
    block, _ = python_blocks(ROOT / "docs" / "extending.md")  # the other one is tested in test_new_formats.py
    names: dict[str, Any] = {}
    exec(block, names)
    run = Pipeline([names["Greedy"]("Hello?")], model="tiny-random", run_dir=tmp_path / "run").run()
    assert run["greedy"].samples[0]["prompt"] == "Hello?"
    assert run["greedy"].samples[0]["answer"].startswith("Hello?")
    assert run.model == run.start


def test_the_pipeline_of_the_readme_builds(tmp_path: Path, monkeypatch: Any) -> None:
    from posttrain.data_formats import sample

    (block,) = python_blocks(ROOT / "README.md")
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("A paragraph.\n\nAnother one.\n")
    Path("chat.jsonl").write_text(sample("conversation").read_text())
    Path("pairs.jsonl").write_text(sample("preference").read_text())
    names: dict[str, Any] = {}
    exec(block.split(").run()")[0] + ")", names)  # built and checked, not trained: its model is on the Hub
    assert [stage.title for stage in names["run"].stages] == ["cpt", "sft", "reward_model", "dpo"]


def test_files_and_folders_that_are_named_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_strategies_is_generated() -> None:
    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import as_markdown

    page = (ROOT / "docs" / "strategies.md").read_text()
    assert page == as_markdown(SHIPPED), "run: posttrain strategies --markdown > docs/strategies.md"
