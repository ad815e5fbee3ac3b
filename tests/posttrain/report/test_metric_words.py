"""Every number that the code measures or proves has a name in both languages."""

import ast
from collections.abc import Iterator
from pathlib import Path

from posttrain import data_formats, stages
from posttrain.report.metric_words import NAMES, zh_name
from posttrain.report.page import as_page
from posttrain.report.reading import read_report
from posttrain.stages.forgetting import FORGETTING
from posttrain.stages.strategies import QLoRA
from tests.posttrain.report.runs import RunFolder

# What the process that reads an export back calls "padded" there; and sides, not numbers.
_OTHER = {"padded_difference", "before", "after", ""}
_FROM_OUTSIDE = {"reward_model_accuracy"} | {f"read_back_{reader}" for reader in ("plain", "transformers_gguf", "padded")}  # fmt: skip


def test_every_metric_has_a_name_in_chinese() -> None:
    found = set(FORGETTING) | {name for tree in _trees() for name in _measured(tree)}
    assert {
        "loss",
        "stop_rate",
        "win_rate",
        "kl_per_token",
        "chrf",
        "valid_json",
    } <= found  # it was looked well
    assert found - _OTHER - set(NAMES) == set()


def test_every_proof_has_a_name_in_chinese() -> None:
    found = {name for tree in _trees() for name in _proved(tree)}
    assert {"parameters_moved", "read_back_difference", "first_loss"} <= found
    onto = {QLoRA().base_format, QLoRA(bits=8).base_format, "weights"}
    assert (found | {f"merge_drift_{one}" for one in onto} | _FROM_OUTSIDE) - set(NAMES) == set()


def test_names_that_users_gave_stay() -> None:
    assert zh_name("courteous") is None
    assert zh_name("qa.exact_match") == "qa: 完全匹配率"
    assert zh_name("qa.mine") is None


def test_the_page_says_them_in_both_languages(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", ["sft"])
    metrics = {"loss_before": 2.0, "loss_after": 3.0, "my_<b>_before": 1.0, "my_<b>_after": 1.0}
    run.finish(run.begin("sft"), "sft", metrics=metrics)
    text = as_page(read_report(run.write()))
    for en, zh in (
        ("loss", "损失"),
        ("loss got worse on held-out rows: 2 to 3", "损失在留出集上变差：2 变为 3"),
    ):
        assert f'<span class="en">{en}</span><span class="zh" lang="zh-Hans">{zh}</span>' in text
    assert "my &lt;b&gt;" in text and "my_<b>" not in text.partition("<script")[0]


def _trees() -> Iterator[ast.Module]:
    for package in (stages, data_formats):
        for path in Path(*package.__path__).rglob("*.py"):
            yield ast.parse(path.read_text("utf-8"))


def _measured(tree: ast.AST) -> Iterator[str]:
    """The keys of all that is said to be {name: number}, and what means are taken of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            if any(kind in ast.unparse(node.returns) for kind in ("dict[str, float]", "Mapping[str, float]")):
                yield from _keys(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Measured.means":
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def _keys(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        keys = [*node.keys] if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _proved(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "prove" and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield name.value
