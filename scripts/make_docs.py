"""Write what the docs take from the code: the tables between `<!-- table: NAME -->` and `<!-- /table -->`.

python scripts/make_docs.py            # after a change of a stage, format, recipe, strategy or of the planner

Tables of pages below docs/zh are in Chinese. docs/strategies.md is written whole, as `posttrain strategies --markdown`
prints it. tests/test_docs.py fails while a page is not what this would write.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# What the code says in English, for pages in Chinese; a stage that is not here is described in English there, too.
ZH: Mapping[str, str] = {
    "stage": "阶段", "what it does": "做什么", "rows": "数据", "needs": "需要", "makes": "产出",
    "learning rate, whole model / adapter": "学习率，全参 / 适配器", "epochs": "轮数",
    "format": "格式", "or": "也叫", "a row": "一行的样子", "recipe": "配方", "stages": "阶段", "flags": "参数", "in YAML": "YAML 版",
    "strategy": "策略", "model": "模型", "yes": "是", "no": "否", "any": "任意", "nothing": "无", "does not fit": "放不下",
    "policy": "策略模型", "reward": "奖励模型", "classifier": "分类器", "token_classifier": "序列标注器",
    "text": "文本", "conversation": "对话", "preference": "偏好对", "unpaired": "带好坏判定的回答", "prompt": "提示",
    "labelled": "带标签的文本", "tagged": "带区段标注的文本", "exchange": "单轮问答",
    "merge": "可合并", "goes on": "可续训", "starts equal": "起点等同", "new base": "新底座", "4-bit base": "4 bit 底座",
    "DPO, KTO": "DPO、KTO", "PPO, GRPO": "PPO、GRPO", "one base": "共用底座", "less memory": "可省显存",
    "CPT": "继续预训练：在文档上预测下一个 token；超过 `max_length` 的文档切开，从不与别的文档拼接",
    "SFT": "监督微调：只训练助手的回答和它的停止符",
    "RewardModel": "奖励模型：给整段对话打一个分，训练到被选中的回答得分更高（Bradley-Terry）",
    "DPO": "直接偏好优化：偏向被选中的回答，同时不离开参考模型",
    "KTO": "每个回答只有好或坏的判定：好的相对参考模型上升，坏的下降",
    "ORPO": "一个损失里同时学回答与偏好，不需要参考模型",
    "PPO": "近端策略优化：策略、参考、奖励、critic 共用一份冻结的底座",
    "GRPO": "组相对策略优化：同一提示的一组回答互相比较",
    "RLOO": "REINFORCE，以其余回答的平均奖励为基线",
    "Classifier": "分类头：每个类别一个分数，头总是训练并保存",
    "TokenClassifier": "序列标注头：标出文本里有名字的区段",
    "Seq2Seq": "编码器读提示，解码器学回答和结束符（T5、BART）",
    "Evaluate": "测量某个角色最新的模型，附 95 % 区间；不产出模型",
    "Export": "把某个角色最新的模型写成别人能用的文件，在新进程里读回并比较；不产出新模型",
}  # fmt: skip
_STARTERS = ("run_recipe", "typer.run")  # what makes flags of a function's parameters
_MODELS = ("1B", "3B", "8B", "14B", "32B", "70B")
_CARDS = ("8GB", "12GB", "16GB", "24GB", "48GB", "80GB")


def stages(say: Callable[[str], str]) -> list[str]:
    """One row for each stage that a pipeline can have."""
    head = (
        "stage", "what it does", "rows", "needs", "makes", "learning rate, whole model / adapter", "epochs",
    )  # fmt: skip
    return _table(head, [_stage(kind, say) for kind in _stage_kinds()], say)


def _stage_kinds() -> list[type[Any]]:
    from posttrain.pipeline import Stage
    from posttrain.recipe_files.forms import forms_of

    learners = ("CPT", "SFT", "RewardModel", "DPO", "KTO", "ORPO", "PPO", "GRPO", "RLOO")
    order = (*learners, "Classifier", "TokenClassifier", "Seq2Seq", "Evaluate", "Export")
    found = {name: form.build for name, form in forms_of(Stage).items()}
    rest = sorted(found.keys() - set(order))
    return [found[name] for name in (*order, *rest)]  # type: ignore[misc]


def _stage(kind: type[Any], say: Callable[[str], str]) -> list[str]:
    from posttrain.recipe_files.forms import Form
    from posttrain.stages import TrainingStage

    name = kind.__name__
    does = say(name) if say(name) != name else Form.of(kind).description
    if not issubclass(kind, TrainingStage):
        return [f"`{name}`", does, say("any"), say("any"), say(kind.makes or "nothing"), "", ""]
    # where it depends on the settings it is a property: a reward model, unless reward= is given
    needs = kind.needs if isinstance(kind.needs, tuple) else ("policy", "reward")
    rates = f"{_rate(kind.full_learning_rate)} / {_rate(10 * kind.full_learning_rate)}"
    return [
        f"`{name}`", does, say(kind.kind), ", ".join(map(say, needs)), say(kind.makes), rates,
        f"{kind.default_epochs:g}",
    ]  # fmt: skip


def _rate(value: float) -> str:
    """0.00002 as 2e-5."""
    return re.sub(r"\.?0*e-0?", "e-", f"{value:e}")


def settings(say: Callable[[str], str]) -> list[str]:
    """Each stage's own settings, below the ones that all have."""
    from posttrain.recipe_files.forms import Form
    from posttrain.stages import TrainingStage

    common = Form.of(TrainingStage)
    lines = ["### Settings that all training stages have", "", *_settings(common, ())]
    for kind in _stage_kinds():
        trains, form = issubclass(kind, TrainingStage), Form.of(kind)
        own = _settings(form, common.settings if trains else ())
        lines += ["", f"### {kind.__name__}", "", form.description, *(["", *own] if own else [])]
        if trains:
            lines += ["", f"`trainer_args` takes the fields of {_config(kind)}."]
    return lines


def _config(kind: type[Any]) -> str:
    from posttrain.stages.trl_trainers import CONFIGS

    if not hasattr(kind, "trainer"):
        return f"our `{kind.__name__}Arguments`"
    package, _, name = CONFIGS[kind.trainer]
    return f"`{name}` ({package})"


def _settings(form: Any, known: Any) -> list[str]:
    from dataclasses import MISSING

    from posttrain.pipeline import CheckedSettings

    rows = []
    for name, setting in form.settings.items():
        if name in known:
            continue
        required = setting.default is MISSING
        shown = str if isinstance(setting.default, CheckedSettings) else repr
        default = "" if required else f"`{shown(setting.default)}`"
        rows.append([f"`{name}`", default, setting.description])
    return _table(("setting", "default", "what it is"), rows, str) if rows else []


def formats(say: Callable[[str], str]) -> list[str]:
    """One row for each data format, in the order in which they are tried."""
    from posttrain.data_formats.formats.registry import OURS

    rows = [
        [f"`{one.name}`", f"`{one.family}`" if one.family else "", say(one.kind), f"`{one.shape}`"]
        for one in OURS
    ]
    return _table(("format", "or", "rows", "a row"), rows, say)


def recipes(say: Callable[[str], str]) -> list[str]:
    """One row for each packaged recipe: the stages that it names, and its flags. The scripts are read, not run."""
    from posttrain.packaged_recipes import packaged_recipes

    known = {kind.__name__ for kind in _stage_kinds()}
    rows = []
    for recipe in packaged_recipes():
        if recipe.name == "launch":
            continue
        nodes = list(ast.walk(ast.parse(recipe.files[0].read_text("utf-8"))))
        calls = [node for node in nodes if isinstance(node, ast.Call) and node.args]
        calls.sort(key=lambda call: call.lineno)
        chain = dict.fromkeys(name for call in calls if (name := ast.unparse(call.func)) in known)
        (started,) = {ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) in _STARTERS}
        (build,) = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == started)
        flags = " ".join(f"`--{each.arg.replace('_', '-')}`" for each in build.args.args if not _hidden(each))
        in_yaml = say("yes") if len(recipe.files) > 1 else ""
        rows.append([f"`{recipe.name}.py`", " → ".join(chain), flags, in_yaml])
    return _table(("recipe", "stages", "flags", "in YAML"), rows, say)


def _hidden(flag: ast.arg) -> bool:
    return flag.annotation is not None and "hidden=True" in ast.unparse(flag.annotation)


def strategies(say: Callable[[str], str]) -> list[str]:
    """What each strategy can do."""
    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import COLUMNS, answers

    head = ("strategy", *(heading for heading, _, _ in COLUMNS))
    rows = [[f"`{kind.__name__}`", *map(say, answers(kind.capabilities))] for kind in SHIPPED]
    return _table(head, rows, say)


def hardware(say: Callable[[str], str]) -> list[str]:
    """What auto(...) takes for SFT with rows of 1024 tokens, and its estimate."""
    return _choices("SFT", 1024, say)


def hardware_long(say: Callable[[str], str]) -> list[str]:
    """The same with rows of 4096 tokens."""
    return _choices("SFT", 4096, say)


def hardware_dpo(say: Callable[[str], str]) -> list[str]:
    """The same for DPO, which has two answers in memory."""
    return _choices("DPO", 1024, say)


def _choices(stage: str, max_length: int, say: Callable[[str], str]) -> list[str]:
    from posttrain import stages
    from posttrain.stages.planner.auto import choices, find_shape, read_memory

    rows = []
    for model in _MODELS:
        cells = [model]
        for card in _CARDS:
            made = choices(
                getattr(stages, stage)(max_length=max_length), find_shape(model), read_memory(card)
            )
            picked = next((one for one in made if one.chosen), None)
            cells.append(_choice(picked) if picked else say("does not fit"))
        rows.append(cells)
    return _table(("model", *(card.replace("GB", " GB") for card in _CARDS)), rows, say)


def _choice(picked: Any) -> str:
    """The strategy in short, ↻ where activations are computed again, and the gigabytes."""
    strategy = picked.stage.strategy
    rank = f" r={strategy.r}" if hasattr(strategy, "r") else ""
    return f"{type(strategy).__name__}{rank}{' ↻' if picked.recompute else ''}, {picked.bytes / 2**30:.1f}"


TABLES: Mapping[str, Callable[[Callable[[str], str]], list[str]]] = {
    "stages": stages, "settings": settings, "formats": formats, "recipes": recipes, "strategies": strategies,
    "hardware": hardware, "hardware, long rows": hardware_long, "hardware, DPO": hardware_dpo,
}  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], say: Callable[[str], str]) -> list[str]:
    lines = [[say(cell) for cell in head], ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def filled(page: Path, text: str, planned: bool = True) -> str:
    """A page's text with its tables as the code has them; raises KeyError for a table that nobody makes.

    planned: those of the planner, too, which take most of a minute.
    """
    chinese = page.is_relative_to(DOCS / "zh")

    def say(word: str) -> str:
        return ZH.get(word, word) if chinese else word

    def made(found: re.Match[str]) -> str:
        if found[2].startswith("hardware") and not planned:
            return found[0]
        return "\n".join([found[1], "", *TABLES[found[2]](say), "", found[3]])

    return re.sub(r"(<!-- table: (.+?) -->)\n.*?(<!-- /table -->)", made, text, flags=re.DOTALL)


def pages(planned: bool = True) -> Iterator[tuple[Path, str]]:
    """Each page of the docs and what it must be; planned: as of `filled`."""
    from posttrain.stages.strategies import SHIPPED
    from posttrain.stages.strategies.table import as_markdown

    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text("utf-8")
        yield page, as_markdown(SHIPPED) if page == DOCS / "strategies.md" else filled(page, text, planned)


def main() -> None:
    for page, text in pages():
        if page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
