"""One export from a trained model to a proven folder."""

from __future__ import annotations

import gc
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import ExportError

from ...pipeline import ModelRef
from ...pipeline.adapters import UNMERGEABLE, kind_of, read_adapter, weights_of
from ...pipeline.base_models import load_tokenizer
from ...pipeline.disk import check_disk
from ...pipeline.durable import adopt_folder, named_disk_errors
from ...pipeline.heads import TRAINED_HEADS, Labels, auto_class, with_head
from ...pipeline.model_folder import KINDS
from ...pipeline.quantization import quantise
from ...pipeline.quiet import quiet_libraries
from .adapter import why_no_adapter, write_adapter
from .card import write_card
from .gguf_file import why_no_gguf, write_gguf
from .golden import Golden
from .llama_cpp import convert
from .merged import write_merged, write_tokenizer
from .modelfile import write_modelfile
from .place import MANIFEST, aside, check_target, values_in
from .proof import drift_limit, prove
from .source import Source
from .turns import Turns, stop_tokens

if TYPE_CHECKING:
    from .stage import Export

GGUF = "model.gguf"
_CHECK = ".check"  # in the folder while it is being made: what the fresh process is asked, and says
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "q8_0": 1.0625}


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    folder: Path
    bytes: int
    facts: Mapping[str, Any]  # of export.json

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(self.facts["golden"][name]) for name in ("drift", "same_choice")}

    @property
    def proofs(self) -> dict[str, float]:
        return {f"read_back_{name}": value for name, value in self.facts["golden"]["read_back"].items()}


def export_model(export: Export, source: Source, target: Path, say: Callable[[str], None]) -> Exported:
    """Write, read back, compare; the folder appears when everything held.

    say: is told what is done now. Raises ExportError where the form cannot hold the model or the target is taken,
    DriftError, ExportMismatchError, DiskSpaceError; none of them leaves anything behind.
    """
    source.model.verify()
    if reason := why_not(export, source):
        raise ExportError(f"{source.name} cannot be exported as {export.format}: {reason}.")
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(target.parent, disk_bytes(export, source), "the export", "choose another folder")
    with quiet_libraries(), named_disk_errors(target), aside(target) as folder:
        (folder / _CHECK).mkdir()
        facts = _facts(export, source) | {"golden": _Making(export, source, folder, say).proven()}
        write_card(source, facts, folder)
        shutil.rmtree(folder / _CHECK)
        manifest = adopt_folder(folder, target, facts, MANIFEST)
    return Exported(target, sum(one["bytes"] for one in manifest["files"].values()), facts)


def why_not(export: Export, source: Source) -> str | None:
    """Why the form cannot hold the model, from the run's files alone; None where it can."""
    model = source.model
    if export.format == "adapter":
        return why_no_adapter(source)
    if model.adapters and (kind := kind_of(model.adapters[-1].folder)) in UNMERGEABLE:
        return f"what {kind} trained cannot be merged into the weights; take --format adapter"
    if export.format == "gguf":
        if importlib.util.find_spec("gguf") is None:
            return "that needs the package gguf; run: pip install gguf"
        if model.head != "causal_lm":
            return f"GGUF holds language models and this is {KINDS[model.head]}, whose head would be dropped; take --format merged"
        if export.llama_cpp is None:
            return why_no_gguf(source.base.config)
    return None


def disk_bytes(export: Export, source: Source) -> int:
    """What the export will take on disk while it is made."""
    if export.format == "adapter":
        return sum(weights_of(one.folder).stat().st_size for one in source.model.adapters)
    values = sum(values_in(path) for path in source.base.folder.glob("*.safetensors"))
    size = values * _BYTES.get(export.resolved_dtype, 1.0625)
    merged = values * _BYTES[_before_llama_cpp(export)] if export.llama_cpp is not None else 0
    return int(size + 2 * merged)  # and the quantiser reads a file as large as the merged model


def _before_llama_cpp(export: Export) -> str:
    return "f32" if export.resolved_dtype == "f32" else "bf16"


class _Making:
    """The steps of one export, with the tokenizer and the golden prompts that all of them need."""

    def __init__(self, export: Export, source: Source, folder: Path, say: Callable[[str], None]) -> None:
        self.export, self.source, self.folder, self.say = export, source, folder, say
        self.base = source.base
        self.tokenizer = load_tokenizer(self.base.folder)
        self.turns = Turns.of(self.tokenizer)
        self.classifies = source.model.head in TRAINED_HEADS
        self.golden = Golden.of(self.tokenizer, source.prompts, self.classifies)

    def proven(self) -> dict[str, Any]:
        """Write the form and prove it; returns the figures of the golden prompts."""
        self.say("asking the trained model")
        trained = self._ask(_as_trained(self.source)) if self.source.quantised else None
        model = _exactly(self.source.model)
        trained = trained or self._ask(model)
        self.say("writing")
        writers = {"merged": self._merged, "adapter": self._adapter, "gguf": self._gguf}
        expected, task = writers[self.export.format](model, trained)
        del model
        gc.collect()
        self.say("reading it back in a fresh process")
        limit = drift_limit(
            self.export.resolved_dtype, self.source.quantised is not None, self.export.max_drift
        )
        return prove(self.golden, trained, expected, self._task() | task, limit)

    def _ask(self, model: Any) -> list[Any]:
        return self.golden.ask(model, int(self.tokenizer.pad_token_id))

    def _task(self) -> dict[str, Any]:
        """What every kind of reading back is asked; see read_back.py."""
        check = self.folder / _CHECK
        return {
            "folder": str(self.folder), "check": str(check), "cases": self.golden.cases,
            "tokens": max(map(len, self.golden.asked)), "classifies": self.classifies,
            "answers": {"plain": str(check / "plain.safetensors")},
        }  # fmt: skip

    def _merged(self, model: Any, trained: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        self._write_whole(model, self.folder, self.export.resolved_dtype)
        return self._ask(model), {"kind": "folder", "auto": _auto_name(model)}

    def _write_whole(self, model: Any, folder: Path, dtype: str) -> None:
        stops = stop_tokens(model, self.tokenizer, self.turns)
        if model.can_generate() and stops:
            model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
            model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        write_tokenizer(self.tokenizer, self.base.folder, folder)
        write_merged(model, folder, dtype, self.export.shard_size)

    def _adapter(self, model: Any, trained: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        write_tokenizer(self.tokenizer, self.base.folder, self.folder)
        write_adapter(self.source, self.folder)
        head, labels = self.source.model.head, 0
        if self.classifies:
            labels = 1 if head == "reward" else len(Labels.read(self.source.model.adapters[-1].folder).names)
        return trained, {
            "kind": "adapter", "base": str(self.base.folder), "auto": _auto_name(model), "labels": labels,
            "quantised": self.source.quantised,
        }  # fmt: skip

    def _gguf(self, model: Any, trained: list[Any]) -> tuple[list[Any] | None, dict[str, Any]]:
        path, dtype = self.folder / GGUF, self.export.resolved_dtype
        stops = stop_tokens(model, self.tokenizer, self.turns)
        expected: list[Any] | None = None
        if self.export.llama_cpp is None:
            write_gguf(model, self.tokenizer, path, dtype, self.source.name, stops)
            expected = self._ask(model)
        else:
            merged = self.folder / _CHECK / "merged"
            merged.mkdir()
            self._write_whole(model, merged, _before_llama_cpp(self.export))
            convert(Path(self.export.llama_cpp), merged, path, dtype)
            shutil.rmtree(merged)
        write_modelfile(self.tokenizer, self.turns, stops, self.folder, GGUF)
        return expected, self._gguf_task(model)

    def _gguf_task(self, model: Any) -> dict[str, Any]:
        check = self.folder / _CHECK
        answers: dict[str, str] = {}
        own = why_no_gguf(model.config.to_dict()) is None
        if own:
            model.config.save_pretrained(check)
            answers["plain"] = str(check / "plain.safetensors")
        if not own or _transformers_reads(model.config):
            answers["transformers_gguf"] = str(check / "transformers.safetensors")
        return {
            "kind": "gguf", "file": GGUF, "config": str(check), "answers": answers,
            "texts": [self.golden.text(self.tokenizer, case) for case in self.golden.cases],
            "template": self.tokenizer.get_chat_template() if self.tokenizer.chat_template else None,
        }  # fmt: skip


def _exactly(model: ModelRef) -> Any:
    """In float32 on the CPU, as the fresh process will read it: what a GPU rounds would hide what a file lost."""
    import torch

    return model.load_model(dtype=torch.float32, device="cpu")


def _as_trained(source: Source) -> Any:
    """The last adapter live on the quantised weights that it was trained on."""
    last, head = source.model.adapters[-1], source.model.head
    model = _exactly(source.model.without_last_adapter())
    if head in TRAINED_HEADS:
        model = with_head(model, head, None if head == "reward" else Labels.read(last.folder))
    assert source.quantised is not None
    return read_adapter(quantise(model, model.dtype, source.quantised), last.folder)


def _auto_name(model: Any) -> str:
    """The class of transformers that a reader of the files would take."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return str(auto_class({"architectures": [type(inner).__name__]}).__name__)


def _transformers_reads(config: Any) -> bool:
    """Whether transformers' GGUF loader takes over all that such a model needs: no biases, scaled positions, or, of
    Qwen3, heads of another width than 128."""
    plain = config.to_dict()
    biases = config.model_type == "llama" and (plain.get("attention_bias") or plain.get("mlp_bias"))
    scaled = (plain.get("rope_parameters") or {}).get("rope_type", "default") != "default"
    return not biases and not scaled and not (config.model_type == "qwen3" and plain["head_dim"] != 128)


def _facts(export: Export, source: Source) -> dict[str, Any]:
    """What export.json says about the source."""
    from importlib.metadata import version

    model, base = source.model, source.base_name
    makers = [source.maker(one) for one in model.adapters]
    return {
        "format": export.format,
        "dtype": export.resolved_dtype or "as trained",
        "head": model.head,
        "run": source.run.folder.name,
        "stage": source.stage.name if source.stage else None,
        "model_fingerprint": model.fingerprint,
        "base": Path(base).name if Path(base).is_absolute() else base,  # no path of this machine
        "base_revision": model.revision,
        "base_fingerprint": model.base_fingerprint,
        "tokenizer_fingerprint": source.base.tokenizer_fingerprint,
        "adapters": [
            {"stage": maker.name if maker else None, "digest": one.digest, "merged_onto": one.merge_onto}
            for one, maker in zip(model.adapters, makers, strict=True)
        ],
        "trained_on": source.quantised or "weights",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
