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


def test_the_yaml_of_the_docs_builds(tmp_path: Path, monkeypatch: Any) -> None:
    from posttrain import CPT, GRPO, SFT, Data, Full, LoRA, RewardModel
    from posttrain.data_formats import sample
    from posttrain.recipe_files import build, read_yaml

    blocks = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "command-line.md").read_text(), flags=re.DOTALL
    )
    assert len(blocks) == 2 and blocks[1].startswith("# yaml-language-server")
    monkeypatch.chdir(tmp_path)
    for name, kind in (("chat", "conversation"), ("pairs", "preference"), ("prompts", "prompt")):
        Path(f"{name}.jsonl").write_text(sample(kind).read_text())  # type: ignore[arg-type]
    Path("notes.txt").write_text("A paragraph.\n\nAnother one.\n")
    Path("faq.csv").write_text("question,answer\nWhy?,Because.\n")
    Path("rewards.py").write_text("def polite(prompts, completions, **_):\n    return [0.0] * len(prompts)\n")
    built = build(read_yaml(blocks[0], "recipe.yaml"))
    faq = Data("faq.csv", format="qa", limit=1000)
    *first, grpo = built.stages
    assert first == [
        CPT(LoRA(r=16), data="notes.txt"),
        SFT(LoRA(r=16), data=["chat.jsonl", faq], epochs=2, learning_rate=1e-4),
        RewardModel(LoRA(r=16), data="pairs.jsonl"),
    ]
    assert isinstance(grpo, GRPO) and grpo.strategy == Full() and grpo.reward.__name__ == "polite"  # type: ignore[union-attr]


def test_files_and_folders_that_are_named_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_strategies_is_generated() -> None:
    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import as_markdown

    page = (ROOT / "docs" / "strategies.md").read_text()
    assert page == as_markdown(SHIPPED), "run: posttrain strategies --markdown > docs/strategies.md"
