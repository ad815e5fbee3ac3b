"""Every strategy in every form: what is read back is the model that was trained, or a reason why it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import (
    BOFT,
    IA3,
    OFT,
    AdaLoRA,
    Adapter,
    Export,
    Freeze,
    Full,
    GradualUnfreeze,
    LNTuning,
    LoHa,
    LoKr,
    LoRA,
    LoRAGA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    QLoRA,
    Run,
    VeRA,
)
from posttrain.errors import ExportError
from posttrain.stages.export.source import source_of
from posttrain.stages.export.work import export_model
from posttrain.stages.strategies import SHIPPED
from tests.stages.export.conftest import quiet

ALL = {"merged": "", "adapter": "", "gguf": ""}  # "" where it works, else what the refusal says
WHOLE = ALL | {"adapter": "no adapter"}
PROMPTS = ALL | {name: "cannot be merged" for name in ("merged", "gguf")}
TABLE: dict[str, tuple[Any, dict[str, str]]] = {
    "full": (Full(), WHOLE),
    "freeze": (Freeze(layers=1), WHOLE),
    "gradual": (GradualUnfreeze(every_steps=1, layers=2), WHOLE),
    "lora": (LoRA(r=4), ALL),
    "rslora": (LoRA(r=4, variant="rslora"), ALL),
    "dora": (LoRA(r=4, variant="dora"), ALL),
    "pissa": (LoRA(r=4, init="pissa"), ALL),
    "lora-saved-whole": (LoRA(r=4, modules_to_save=["norm"]), ALL),
    "qlora": (QLoRA(r=4), ALL),
    "int8": (QLoRA(r=4, bits=8), ALL),
    "adalora": (AdaLoRA(r=6, target_r=3), ALL),
    "ia3": (IA3(), ALL),
    "vera": (VeRA(r=16), ALL),
    "oft": (OFT(block_size=8), ALL),
    "boft": (BOFT(block_size=4), ALL | {"adapter": "CUDA extension"}),
    "loha": (LoHa(r=4), ALL),
    "lokr": (LoKr(r=4), ALL),
    "lntuning": (LNTuning(), ALL),
    "adapter": (Adapter(bottleneck=8), PROMPTS | {"adapter": "bottleneck"}),
    "prompt": (PromptTuning(tokens=6), PROMPTS),
    "prefix": (PrefixTuning(tokens=6), PROMPTS),
    "p-tuning": (PTuning(tokens=6), PROMPTS),
}
QUICK = {
    ("lora", "merged"), ("lora", "adapter"), ("lora", "gguf"), ("full", "adapter"), ("qlora", "adapter"),
    ("prompt", "gguf"), ("adapter", "adapter"),
}  # fmt: skip
CASES = [
    pytest.param(name, form, marks=[] if (name, form) in QUICK else pytest.mark.slow)
    for name in TABLE
    for form in ALL
]


def test_every_shipped_strategy_is_here() -> None:
    # LoRA-GA starts from rows, which these stages have not; what it saves is LoRA's like PiSSA's
    assert {type(strategy) for strategy, _ in TABLE.values()} | {LoRAGA} == set(SHIPPED)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_strategy_in_a_form(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path, name: str, form: Any
) -> None:
    strategy, forms = TABLE[name]
    run = shaken(strategy)
    target = tmp_path / "out"
    # shaken weights are far from trained ones: what a merge of a quantised model costs is no matter here
    export = Export(form, max_drift=10.0 if name in ("qlora", "int8") and form != "adapter" else None)
    if forms[form]:
        with pytest.raises(ExportError, match=forms[form]):
            export_model(export, source_of(run, run.model), target, quiet)
        assert not list(tmp_path.iterdir())
        return
    done = export_model(export, source_of(run, run.model), target, quiet)
    golden = done.facts["golden"]
    assert golden["token_ids_equal"] and golden["prompts"] >= 4
    assert 0 <= golden["read_back"]["plain"] <= 1e-4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "strategies",
    [
        (LoRA(r=2), LoRA(r=4, variant="rslora"), LoRA(r=2, target_modules=("q_proj", "v_proj"), alpha=3), LoRA(r=1)),
        pytest.param((LoRA(r=2), LoRA(r=2, init="pissa"), LoRA(r=2, layers_to_transform=-1)), marks=pytest.mark.slow),
        pytest.param((Full(), LoRA(r=2), LoRA(r=4)), marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "form",
    ["adapter", pytest.param("merged", marks=pytest.mark.slow), pytest.param("gguf", marks=pytest.mark.slow)],
)
def test_a_lineage_equals_the_live_model(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path, strategies: Any, form: Any
) -> None:
    run = shaken(*strategies)
    done = export_model(Export(form), source_of(run, run.model), tmp_path / "out", quiet)
    golden = done.facts["golden"]
    assert len(done.facts["adapters"]) == len([s for s in strategies if s != Full()])
    assert golden["read_back"]["plain"] <= 1e-4
    if form == "adapter":  # not rounded: the adapters as one are the live model
        assert golden["drift"] < 1e-9


@pytest.mark.parametrize(
    ("strategies", "why"),
    [
        ((LoRA(r=2), LoRA(r=2, variant="dora")), "sft_2 is DoRA"),
        pytest.param((IA3(), LoRA(r=2)), "sft_1 is IA3", marks=pytest.mark.slow),
        pytest.param((QLoRA(r=2), LoRA(r=2)), "quantised weights", marks=pytest.mark.slow),
        pytest.param((LoRA(r=2), PromptTuning(tokens=4)), "sft_2 is PROMPT_TUNING", marks=pytest.mark.slow),
    ],
)
def test_adapters_that_add_up_to_none_are_refused(
    shaken: Callable[..., Run], tmp_path: Path, strategies: Any, why: str
) -> None:
    run = shaken(*strategies)
    with pytest.raises(ExportError, match=why):
        export_model(Export("adapter"), source_of(run, run.model), tmp_path / "out", quiet)
