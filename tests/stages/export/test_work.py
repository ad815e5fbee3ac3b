"""The other forms, heads, places, failures: nothing unproven is left anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import IA3, Export, Full, LoRA, Pipeline, PromptTuning, QLoRA, Run
from posttrain.errors import (
    DiskSpaceError,
    DriftError,
    ExportError,
    ExportMismatchError,
    ModelError,
    NoSuchStageError,
    SettingError,
    StrategyError,
    WrongBaseError,
)
from posttrain.pipeline.durable import verify_folder
from posttrain.stages.export import adapter, merged, proof, work
from posttrain.stages.export.place import MANIFEST
from posttrain.stages.export.source import Source, read_source, source_of
from posttrain.stages.export.work import disk_bytes, export_model
from tests.stages.export.conftest import quiet
from tests.stages.export.made import ShakenReward, ShakenSFT, language_model


def of(run: Run) -> Source:
    return source_of(run, run.model)


def test_the_command_reads_back_in_a_fresh_process(lora_run: Run, tmp_path: Path, capsys: Any) -> None:
    from posttrain.commands.export import export

    out = tmp_path / "for others"
    export(f"{lora_run.folder}:sft_1", out=out, shard_size="60KB", json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["golden"]["read_back"]["plain"] <= 1e-4 and said["stage"] == "sft_1"
    manifest = verify_folder(out, manifest_name=MANIFEST)
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= set(manifest["files"])
    assert "model.safetensors.index.json" in manifest["files"]  # in shards
    assert manifest["facts"]["model_fingerprint"] == lora_run.model.fingerprint
    # what plain transformers makes of it, without this library
    code = (
        "import sys, transformers as t; m = t.AutoModelForCausalLM.from_pretrained(sys.argv[1]);"
        "assert 'posttrain' not in sys.modules and str(m.dtype) == 'torch.bfloat16';"
        "print(m.generation_config.eos_token_id)"
    )
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
    tokenizer_ids = json.loads((out / "generation_config.json").read_text())
    assert int(done.stdout) == tokenizer_ids["eos_token_id"]


def test_the_card_says_where_it_came_from(lora_run: Run, same_process: None, tmp_path: Path) -> None:
    export_model(Export(), of(lora_run), tmp_path / "out", quiet)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| sft_1 | ShakenSFT | LoRA(r=4) |" in card
    assert "vllm serve ." in card and "sglang" in card and "token ids are equal" in card
    assert lora_run.start.base_fingerprint[:16] in card
    assert str(tmp_path) not in card and str(lora_run.folder.parent) not in card  # no path of this machine


@pytest.mark.parametrize("form", ["merged", pytest.param("adapter", marks=pytest.mark.slow)])
def test_a_reward_model_keeps_its_head(
    pocket: Path, same_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    stages = [ShakenSFT(LoRA(r=2), name="sft"), ShakenReward(LoRA(r=2), name="reward")]
    run = Pipeline(stages, model=pocket, run_dir=tmp_path / "run").run()
    assert run.reward_model is not None
    done = export_model(Export(form), source_of(run, run.reward_model), tmp_path / "out", quiet)
    golden = done.facts["golden"]
    assert done.facts["head"] == "reward" and golden["read_back"]["plain"] < 1e-4
    if form == "merged":
        assert golden["read_back"]["padded"] < 1e-4  # the pad token of the files is that of the config
    with pytest.raises(ExportError, match="head would be dropped"):
        export_model(Export("gguf"), source_of(run, run.reward_model), tmp_path / "gguf", quiet)
    if form == "merged":  # padded with the end token, the score would be read off the padding

        def ends_as_padding(tokenizer: Any, base: Path, folder: Path) -> None:
            shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<|im_end|>"}))

        monkeypatch.setattr(work, "write_tokenizer", ends_as_padding)
        with pytest.raises(ExportMismatchError, match="padded"):
            export_model(Export(), source_of(run, run.reward_model), tmp_path / "pad", quiet)


@pytest.mark.parametrize("form", ["merged", pytest.param("adapter", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    ["classifier", pytest.param("tags", marks=pytest.mark.slow), pytest.param("t5", marks=pytest.mark.slow)],
)
def test_other_heads(
    bert_model: Path, t5_model: Path, same_process: None, tmp_path: Path, kind: str, form: Any
) -> None:
    from posttrain import Classifier, Seq2Seq, TokenClassifier

    common: dict[str, Any] = {"max_steps": 1, "batch_size": 4}
    if kind == "classifier":
        rows = [{"text": f"the river {i % 7}", "label": "wet" if i % 2 else "dry"} for i in range(24)]
        run = Pipeline(
            [Classifier(LoRA(r=2), data=rows, **common)], bert_model, run_dir=tmp_path / "run"
        ).run()
        model = run.classifier
    elif kind == "tags":
        tagged = [
            {"text": "the river runs", "entities": [{"start": 4, "end": 9, "label": "W"}]} for _ in range(24)
        ]
        run = Pipeline(
            [TokenClassifier(LoRA(r=2), data=tagged, **common)], bert_model, run_dir=tmp_path / "run"
        ).run()
        model = run.token_classifier
    else:
        rows = [{"prompt": f"the river {i % 5}", "completion": "blue boat"} for i in range(24)]
        run = Pipeline([Seq2Seq(LoRA(r=2), data=rows, **common)], t5_model, run_dir=tmp_path / "run").run()
        model = run.model
    assert model is not None
    done = export_model(Export(form), source_of(run, model), tmp_path / "out", quiet)
    assert done.facts["golden"]["read_back"]["plain"] < 1e-4
    if kind == "classifier" and form == "merged":
        assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {
            "0": "dry",
            "1": "wet",
        }


def test_what_is_not_the_model_is_found_and_leaves_nothing(
    lora_run: Run, same_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = merged.write_merged

    def one_norm_lost(model: Any, folder: Path, *rest: Any) -> None:
        from safetensors.torch import load_file, save_file

        written(model, folder, *rest)
        state = load_file(folder / "model.safetensors")
        state["model.norm.weight"].fill_(1.0)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(work, "write_merged", one_norm_lost)
    with pytest.raises(ExportMismatchError, match="differs from what was written"):
        export_model(Export(), of(lora_run), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_differs_is_found(
    lora_run: Run, same_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = merged.write_tokenizer

    def other_template(tokenizer: Any, base: Path, folder: Path) -> None:
        written(tokenizer, base, folder)
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text().replace("<|im_start|>assistant\n", "<|im_start|>assistant"))

    monkeypatch.setattr(work, "write_tokenizer", other_template)
    with pytest.raises(ExportMismatchError, match="other tokens than the run's"):
        export_model(Export(), of(lora_run), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_files_that_nobody_can_read_are_found_by_the_process(
    lora_run: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(work, "write_merged", lambda *_: None)
    with pytest.raises(ExportMismatchError, match="cannot be read back in a fresh process"):
        export_model(Export(), of(lora_run), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


def test_a_qlora_merge_says_its_drift_and_is_refused_above_the_limit(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path
) -> None:
    run = shaken(QLoRA(r=4))
    with pytest.raises(DriftError, match="in nats per token, where 1e-09 is allowed"):
        export_model(Export(max_drift=1e-9), of(run), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())
    done = export_model(Export(dtype="f32"), of(run), tmp_path / "out", quiet)
    golden = done.facts["golden"]
    assert 0 < golden["drift"] <= golden["drift_allowed"] == proof.QLORA_DRIFT
    assert done.facts["trained_on"] == "nf4"


def test_a_taken_place_is_refused_unless_it_is_an_older_export(
    lora_run: Run, same_process: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="is no export of posttrain"):
        export_model(Export(), of(lora_run), out, quiet)
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    export_model(Export(dtype="f32"), of(lora_run), out, quiet)
    export_model(Export(), of(lora_run), out, quiet)  # an export of ours, unchanged, is replaced
    assert verify_folder(out, manifest_name=MANIFEST)["facts"]["dtype"] == "bf16"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt, which posttrain did not write"):
        export_model(Export(), of(lora_run), out, quiet)
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("edited")
    with pytest.raises(ExportError, match="changed since"):
        export_model(Export(), of(lora_run), out, quiet)


def test_a_disk_that_is_too_small_is_found_first(lora_run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("posttrain.pipeline.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match="the export will need up to"):
        export_model(Export(), of(lora_run), tmp_path / "out", quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_disk_estimate_holds_the_weights(lora_run: Run, same_process: None, tmp_path: Path) -> None:
    for form, dtype in (("merged", "f32"), ("gguf", "q8_0")):
        done = export_model(Export(form, dtype=dtype), of(lora_run), tmp_path / form, quiet)  # type: ignore[arg-type]
        weights = [path for path in done.folder.iterdir() if path.suffix in (".safetensors", ".gguf")]
        written = sum(path.stat().st_size for path in weights)
        assert 0.6 * written < disk_bytes(Export(form, dtype=dtype), of(lora_run)) < 1.5 * written  # type: ignore[arg-type]


def moved(run: Run, folder: Path) -> Path:
    shutil.copytree(run.folder, folder)
    return folder


def test_a_moved_run_finds_its_base_beside_it_or_asks(same_process: None, tmp_path: Path) -> None:
    base = language_model(tmp_path / "here" / "pocket")
    run = Pipeline([ShakenSFT(LoRA(r=2), name="sft")], model=base, run_dir=tmp_path / "here" / "run").run()
    there = moved(run, tmp_path / "there" / "run")
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="say where it is with --base FOLDER"):
        read_source(str(there))
    other = language_model(tmp_path / "other", hidden_size=32)
    with pytest.raises(WrongBaseError, match="give the folder of that one"):
        read_source(str(there), other)
    done = export_model(Export(), read_source(str(there), tmp_path / "elsewhere"), tmp_path / "out", quiet)
    assert done.facts["base"] == "pocket" and done.facts["model_fingerprint"] == run.model.fingerprint
    shutil.move(tmp_path / "elsewhere", tmp_path / "there" / "pocket")
    assert read_source(f"{there}:sft").model.base == str(tmp_path / "there" / "pocket")


def test_a_run_whose_base_is_trained_whole_needs_nothing_else(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path
) -> None:
    there = moved(shaken(Full()), tmp_path / "there")
    assert read_source(str(there)).model.base.startswith(str(there))


def test_which_model_is_meant(shaken: Callable[..., Run]) -> None:
    run = shaken(LoRA(r=2), LoRA(r=2, variant="dora"))
    assert read_source(str(run.folder)).model.fingerprint == run.model.fingerprint
    first = read_source(f"{run.folder}:sft_1")
    assert first.stage is not None and first.stage.name == "sft_1" and len(first.model.adapters) == 1
    assert first.prompts and first.prompts[0].startswith("<|im_start|>user")
    with pytest.raises(NoSuchStageError, match="sft_1, sft_2"):
        read_source(f"{run.folder}:sft_3")


def test_an_adapter_names_the_base_that_it_needs(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path, pocket: Path
) -> None:
    run = shaken(LoRA(r=2), LoRA(r=4, variant="rslora"))
    done = export_model(Export("adapter"), of(run), tmp_path / "out", quiet)
    config = json.loads((done.folder / adapter.CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(pocket)
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (6, 6, False)
    assert "q_proj" in config["target_modules"]


def test_the_stage_writes_into_its_folder(pocket: Path, same_process: None, tmp_path: Path) -> None:
    stages = [ShakenSFT(LoRA(r=2), name="sft"), Export(dtype="f32"), Export("gguf", name="ollama")]
    pipeline = Pipeline(stages, model=pocket, run_dir=tmp_path / "run")
    run = pipeline.run()
    assert run.model.fingerprint == run["sft"].models["policy"].fingerprint  # it makes nothing new
    assert not run["export"].models and run["export"].proofs["read_back_plain"] < 1e-4
    assert (run["ollama"].folder / "export" / "Modelfile").is_file()
    assert verify_folder(run["export"].folder / "export", manifest_name=MANIFEST)["facts"]["stage"] == "sft"
    assert {one["name"]: one["value"] for one in run["export"].settings} == {
        "format": "merged", "dtype": "f32", "model": "policy", "shard_size": "5GB"
    }  # fmt: skip
    before = (run["export"].folder / "export" / MANIFEST).stat().st_mtime_ns
    pipeline.run()
    assert (run["export"].folder / "export" / MANIFEST).stat().st_mtime_ns == before


def test_adapters_that_will_add_up_are_let_through() -> None:
    lora = LoRA(r=2, init="pissa")
    Pipeline(
        [
            ShakenSFT(Full()),
            ShakenSFT(lora, name="two"),
            ShakenReward(LoRA()),
            Export("adapter", model="reward"),
        ]
    )
    dora = LoRA(variant="dora")
    continued = ShakenSFT(dora, handover="continue", name="two")
    Pipeline([ShakenSFT(dora), continued, Export("adapter")])  # one adapter, trained twice


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Export("onnx"), SettingError, "'merged', 'adapter', 'gguf'"),
        (lambda: Export(dtype="q8_0"), SettingError, "'bf16', 'f16', 'f32'"),
        (lambda: Export("gguf", dtype="q4_k_m"), SettingError, "give llama_cpp"),
        (lambda: Export("gguf", dtype="q9"), SettingError, "dtype"),
        (lambda: Export("adapter", dtype="f16"), SettingError, "leave dtype out"),
        (lambda: Export(shard_size="big"), SettingError, "'500MB'"),
        (lambda: Export(llama_cpp="x"), SettingError, "leave it out"),
        (lambda: Export("gguf", model="reward"), SettingError, "head would be dropped"),
        (lambda: Export(max_drift=0), SettingError, "above 0"),
        (lambda: Pipeline([ShakenSFT(PromptTuning()), Export()]), StrategyError, "cannot be merged"),
        (lambda: Pipeline([ShakenSFT(Full()), Export("adapter")]), StrategyError, "no adapter"),
        (lambda: Pipeline([Export("adapter")]), StrategyError, "no stage before it trains an adapter"),
        (
            lambda: Pipeline([ShakenSFT(IA3()), ShakenReward(LoRA()), Export("adapter", model="reward")]),
            StrategyError,
            r"2 adapters lie on each other.*shaken_sft trains with IA3",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(build: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        build()
