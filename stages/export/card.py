"""The model card of an export: what it is, how it is run, what was measured, what it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...pipeline import Interval, StageRecord
from ...pipeline.adapters import kind_of
from ...pipeline.base_models import EMBEDDED, EMBEDDED_HUB_ID
from ...pipeline.durable import read_json
from ...pipeline.heads import TRAINED_HEADS
from ...pipeline.model_folder import KINDS
from ...pipeline.secrets import looks_secret, redacted
from .adapter import CONFIG, is_plain_lora
from .modelfile import NO_TEMPLATE
from .source import Source


def write_card(source: Source, facts: Mapping[str, Any], folder: Path) -> None:
    """README.md, as the Hub reads it."""
    (folder / "README.md").write_text(card(source, facts, folder), "utf-8")


def card(source: Source, facts: Mapping[str, Any], folder: Path) -> str:
    """facts: of export.json. folder: of the export, whose files are written."""
    parts = [
        _front(source, facts),
        f"# {source.name}",
        f"This is {KINDS[source.model.head]}, exported as {facts['format']} ({facts['dtype']}), made by posttrain from "
        f"`{facts['base']}`.",
        "## Run it",
        *_commands(source, facts, folder),
        "## Proof",
        _proof(facts),
        "## Lineage",
        _lineage(source, facts),
        "## Measured on held-out rows",
        _metrics(source),
        "## Licences",
        _licences(source),
        "## Settings",
        *(_settings(one) for one in source.lineage),
    ]
    return "\n\n".join(parts) + "\n"


def _front(source: Source, facts: Mapping[str, Any]) -> str:
    lines = ["---"]
    if "/" in (base := EMBEDDED_HUB_ID if source.base_name == EMBEDDED else str(facts["base"])):
        lines.append(f"base_model: {base}")
    if licence := _base_licence(source):
        lines.append(f"license: {licence}")
    library = {"merged": "transformers", "adapter": "peft", "gguf": "gguf"}[facts["format"]]
    return "\n".join([*lines, f"library_name: {library}", "tags: [posttrain]", "---"])


def _commands(source: Source, facts: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """For other programs; written, not run."""
    name = re.sub(r"[^\w.-]", "-", source.name)
    if facts["format"] == "gguf":
        yield _shell("llama-server -m model.gguf --jinja")
        if (folder / "Modelfile").is_file():
            yield _shell(f"ollama create {name.lower()} -f Modelfile\nollama run {name.lower()}")
        else:
            yield NO_TEMPLATE
    elif facts["format"] == "merged":
        pooled = source.model.head in TRAINED_HEADS
        if source.model.head != "seq2seq_lm":
            yield _shell(f"vllm serve . --served-model-name {name}" + (" --runner pooling" if pooled else ""))
        if source.model.head == "causal_lm":
            yield _shell(f"python -m sglang.launch_server --model-path . --served-model-name {name}")
        yield f"In Python: `transformers.{_auto(folder)}.from_pretrained(folder)`."
    else:
        yield from _adapter_commands(source, facts, name, folder)
    yield "These commands were written by posttrain and not run by it."


def _auto(folder: Path) -> str:
    from ...pipeline.heads import auto_class

    return str(auto_class(read_json(folder / "config.json")).__name__)


def _adapter_commands(source: Source, facts: Mapping[str, Any], name: str, folder: Path) -> Iterator[str]:
    config = read_json(folder / CONFIG)
    # A folder of this machine stands in adapter_config.json, where PEFT looks for it, and nowhere else.
    base = config["base_model_name_or_path"] if config["revision"] else "BASE"
    where = f" BASE is the folder of `{facts['base']}`." if base == "BASE" else ""
    yield (
        f"The adapter fits one base: `{facts['base']}`, fingerprint `{source.model.base_fingerprint[:16]}` (posttrain's, "
        f"over config and weights). On another it loads without an error and is another model.{where}"
    )
    if source.quantised:
        how = "load_in_8bit" if source.quantised == "int8" else "load_in_4bit, nf4, double quantisation"
        yield f"It was trained on that base in {source.quantised}: load it so, in transformers' BitsAndBytesConfig with {how}."
    yield f"In Python: `peft.PeftModel.from_pretrained(base, folder)`; its kind is {kind_of(folder)}."
    if source.model.head == "causal_lm" and is_plain_lora(folder) and not source.quantised:
        rank = _rank(config["r"])
        yield _shell(f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}=.")
        yield _shell(f"python -m sglang.launch_server --model-path {base} --lora-paths {name}=.")
    elif source.model.head == "causal_lm":
        yield "vLLM and SGLang load plain LoRA on an unquantised base only; for them export it as merged."


def _rank(r: int) -> int:
    """The smallest rank that vLLM can be told which holds it."""
    return next((one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= r), r)


def _shell(text: str) -> str:
    return f"```sh\n{text}\n```"


def _proof(facts: Mapping[str, Any]) -> str:
    golden = facts["golden"]
    readers = {
        "plain": "plain transformers" if facts["format"] == "merged" else "plain PEFT",
        "transformers_gguf": "transformers' GGUF loader",
        "padded": "a padded batch against single texts",
    }
    if facts["format"] == "gguf":
        readers["plain"] = "gguf's reader and dequantisation, in a plain transformers model"
    rows = [
        f"| largest difference of outputs, {readers[name]} | {value:.2g} | {golden['read_back_allowed']:g} |"
        for name, value in golden["read_back"].items()
    ]
    return "\n".join(
        [
            f"Read back in a fresh process without network and compared on {golden['prompts']} golden prompts "
            f"({golden['tokens']} tokens); token ids are equal.",
            "",
            "| | measured | allowed |",
            "|---|--:|--:|",
            *rows,
            f"| away from the trained model, nats per token | {golden['drift']:.2g} | {golden['drift_allowed']:g} |",
            f"| places where the likeliest token or class is the same | {golden['same_choice']:.1%} | |",
            "",
            "Differences are shares of the largest output. Sizes and sha256 of all files: `export.json`.",
        ]
    )


def _lineage(source: Source, facts: Mapping[str, Any]) -> str:
    revision = f" at {facts['base_revision'][:12]}" if facts["base_revision"] else ""
    lines = [
        f"Base `{facts['base']}`{revision}, fingerprint `{facts['base_fingerprint'][:16]}`; run `{facts['run']}`.",
        "",
        "| stage | kind | strategy | rows read | trained on | held out | cut | dropped | data |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for one in source.lineage:
        rows, settings = one.row_counts, {setting["name"]: setting["value"] for setting in one.settings}
        counts = " | ".join(str(rows[name]) for name in ("read", "trained_on", "held_out", "cut", "dropped"))
        data = _shown("data", settings.get("data"))
        lines.append(f"| {one.name} | {one.type} | {settings.get('strategy', '')} | {counts} | {data} |")
    if len(lines) == 4:
        lines = [*lines[:2], "No stage of this run trained it."]
    return "\n".join(lines)


def _metrics(source: Source) -> str:
    rows = []
    for one in source.lineage:
        for change in one.changes:
            bounds = _bounds(change.interval) + (" (inside the noise)" if change.is_noise else "")
            rows.append(
                f"| {one.name} | {change.name.replace('_', ' ')} | {change.before:.4g} | {change.after:.4g} | {bounds} |"
            )
        changed = {
            f"{change.name}_{when}" for change in one.changes for when in ("before", "after", "change")
        }
        for name, interval in one.intervals.items():
            if name not in changed:
                rows.append(
                    f"| {one.name} | {name.replace('_', ' ')} | | {one.metrics[name]:.4g} | {_bounds(interval)} |"
                )
    if not rows:
        return "Nothing was measured on held-out rows."
    head = ["| stage | metric | before | after | change, or value: 95 % interval |", "|---|---|--:|--:|---|"]
    return "\n".join([*head, *rows])


def _bounds(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3g} to {interval.high:.3g}, {interval.rows} rows"


def _base_licence(source: Source) -> str | None:
    """As the base's own card says it, where that is here."""
    if source.base_name == EMBEDDED:
        return "apache-2.0"
    page = source.base.folder / "README.md"
    found = re.search(r"^license: *([\w.-]+)", page.read_text("utf-8"), re.M) if page.is_file() else None
    return found[1] if found else None


def _licences(source: Source) -> str:
    licence = _base_licence(source)
    base = (
        f"The base is under `{licence}`."
        if licence
        else "The base's licence is not recorded in its folder: look it up where it came from."
    )
    return f"{base} Licences of the training data are not recorded; they are those of the files named above."


def _settings(record: StageRecord) -> str:
    given = [one for one in record.settings if one["name"] != "name"]
    lines = [f"| {one['name']} | {_shown(one['name'], one['value'])} | {one['source']} |" for one in given]
    return "\n".join([f"### {record.name}", "", "| setting | value | from |", "|---|---|---|", *lines])


def _shown(name: str, value: Any) -> str:
    """Without secrets, paths of this machine, and what would break a table."""
    if looks_secret(name, value):
        return "***"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = re.sub(r"(?<![\w.])/(?:[\w.@ -]+/)+([\w.@-]+)", r"\1", redacted(text))
    return text.replace("|", "\\|").replace("\n", " ")
