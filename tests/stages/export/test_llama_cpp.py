"""`llama_cpp=`: the user's own converter is run, and what it wrote is proven like everything else. A stand-in plays it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain import Export, LoRA, Run
from posttrain.errors import DriftError, ExportError, SettingError
from posttrain.stages.export.source import source_of
from posttrain.stages.export.work import export_model
from tests.stages.export.conftest import quiet

ROOT = Path(__file__).resolve().parents[3]
CONVERTER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from posttrain.stages.export.gguf_file import write_gguf
folder, _, out, _, dtype = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
write_gguf(model, AutoTokenizer.from_pretrained(folder), Path(out), dtype, "stand-in", [])
"""
QUANTISER = f"""#!{sys.executable}
import sys
import gguf
source, target, name = sys.argv[1:]
kind = gguf.GGMLQuantizationType[name]
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
for key, field in reader.fields.items():
    if not key.startswith("GGUF.") and key != "general.architecture":
        writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
for tensor in reader.tensors:
    values, to = gguf.quants.dequantize(tensor.data, tensor.tensor_type), tensor.tensor_type
    if len(values.shape) > 1 and values.shape[-1] % 32 == 0:
        to = kind
    writer.add_tensor(tensor.name, gguf.quants.quantize(values, to), raw_dtype=to)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    (folder / "build" / "bin").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER)
    quantiser = folder / "build" / "bin" / "llama-quantize"
    quantiser.write_text(QUANTISER)
    quantiser.chmod(0o755)
    return folder


@pytest.mark.slow
def test_other_quantisations_are_made_and_proven(
    shaken: Callable[..., Run], same_process: None, tmp_path: Path, checkout: Path
) -> None:
    run = shaken(LoRA(r=4))
    export = Export("gguf", dtype="q5_0", llama_cpp=checkout)
    done = export_model(export, source_of(run, run.model), tmp_path / "out", quiet)
    golden = done.facts["golden"]
    # nobody here knows the rounded weights: the distance from the trained model is what is measured
    assert golden["read_back"] == {} and 1e-9 < golden["drift"] < golden["drift_allowed"]
    assert {path.name for path in done.folder.iterdir()} == {
        "model.gguf",
        "Modelfile",
        "README.md",
        "export.json",
    }
    with pytest.raises(DriftError):
        harsh = Export("gguf", dtype="q4_0", llama_cpp=checkout, max_drift=1e-6)
        export_model(harsh, source_of(run, run.model), tmp_path / "harsh", quiet)
    assert not (tmp_path / "harsh").exists()


def test_a_converter_that_fails_is_quoted(lora_run: Run, tmp_path: Path, checkout: Path) -> None:
    (checkout / "convert_hf_to_gguf.py").write_text(
        "raise SystemExit('Model LlamaForCausalLM is not supported')"
    )
    export = Export("gguf", llama_cpp=checkout)
    with pytest.raises(
        ExportError, match=r"convert_hf_to_gguf\.py of llama\.cpp ended with 1.*is not supported"
    ):
        export_model(export, source_of(lora_run, lora_run.model), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_is_no_checkout_or_no_quantisation_is_refused_first(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(SettingError, match=r"there is no convert_hf_to_gguf\.py"):
        Export("gguf", dtype="q4_k_m", llama_cpp=tmp_path)
    with pytest.raises(SettingError, match="q4_0"):
        Export("gguf", dtype="q7_x", llama_cpp=checkout)
    (checkout / "build" / "bin" / "llama-quantize").unlink()
    with pytest.raises(SettingError, match="q4_k_m needs llama-quantize"):
        Export("gguf", dtype="q4_k_m", llama_cpp=checkout)
    assert Export("gguf", dtype="q8_0", llama_cpp=checkout)
