"""Saving what a stage trained, and proving that what is read back is what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline import AdapterRef, ModelRef
from ..pipeline.adapters import merge, read_adapter
from ..pipeline.base_models import Base, Head
from ..pipeline.durable import commit_folder, write_json
from ..pipeline.heads import TRAINED_HEADS, Labels, with_head
from ..pipeline.model_ref import adapter_digest
from .evaluation import logits, mean_kl
from .machine import this_machine
from .proofs import prove_equal

if TYPE_CHECKING:
    from ..data_formats import TokenTable
    from ..pipeline.quantization import Format
    from .strategies import StartRows, StepHooks
    from .training_stage import TrainingStage

_PROBE_ROWS, _PROBE_TOKENS = 4, 48

Prove = Callable[[str, float], None]  # records a proof's number under its name


@dataclass(frozen=True)
class Probe:
    """A few held-out rows, cut short, and what the live model gave for them."""

    rows: list[list[int]]
    pad_id: int
    live: Any  # (B, T, vocabulary or tags) logits, or (B, classes) scores

    @classmethod
    def of(cls, model: Any, table: TokenTable, pad_id: int) -> Probe:
        rows = [table.row(i) for i in range(min(_PROBE_ROWS, len(table)))]
        ids = [
            (row.get("input_ids") or row["prompt_ids"] + row.get("chosen_ids", []))[:_PROBE_TOKENS]
            for row in rows
        ]
        return cls(ids, pad_id, logits(model, ids, pad_id))

    def ask(self, model: Any) -> Any:
        return logits(model, self.rows, self.pad_id)


def stands_on(stage: TrainingStage, source: ModelRef) -> ModelRef:
    """The model below the adapter that the stage trains."""
    return source.without_last_adapter() if stage.handover == "continue" else source


def load_for_continuing(stage: TrainingStage, source: ModelRef, dtype: Any) -> Any:
    """The last adapter, live and trainable, on the base that it was trained on."""
    from .strategies.joined_products import join_products

    source.verify()
    model = stands_on(stage, source).load_model(dtype=dtype)
    model = stage.strategy.prepare_base(model)
    return join_products(stage.strategy.read_back(model, source.adapters[-1].folder))


def load_fresh(
    stage: TrainingStage,
    source: ModelRef,
    dtype: Any,
    seed: int,
    rows: StartRows | None,
    labels: Labels | None = None,
) -> Any:
    """The model as it comes in, made trainable by the stage's strategy, and where training starts.

    labels: of a fresh classification head.
    """
    from .strategies.joined_products import join_products

    strategy = stage.strategy
    model = source.load_model(dtype=dtype)
    if stage.head in TRAINED_HEADS:
        model = with_head(model, stage.head, labels, seed)
    model = strategy.wrap(strategy.prepare_base(model), stage.task, seed)
    strategy.start(model, rows)
    return join_products(model)


def save_artifact(
    model: Any, tokenizer: Any, stage: TrainingStage, source: ModelRef, folder: Path, hooks: StepHooks
) -> Path:
    """Commit what was trained: an adapter, or the whole model of a full fine-tuning."""
    stand = stands_on(stage, source)
    if stage.strategy.capabilities.makes_base:

        def fill(aside: Path) -> None:
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)

        target = folder / "model"
    else:

        def fill(aside: Path) -> None:
            model.save_pretrained(aside, selected_adapters=["default"])
            hooks.finish(aside)
            (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            config = json.loads((aside / "adapter_config.json").read_text("utf-8"))
            # Plain PEFT would put an adapter of a merged base on the bare one, without an error.
            merged = f"posttrain:{stand.fingerprint[:16]}"
            config["base_model_name_or_path"] = merged if stand.adapters else stand.base
            write_json(aside / "adapter_config.json", config)
            if stage.head in ("classifier", "token_classifier"):
                Labels.of(model.config).write(aside)

        target = folder / "adapter"
    commit_folder(target, fill, {"stands_on": stand.fingerprint})
    return target


def hand_over(
    stage: TrainingStage, source: ModelRef, artifact: Path, probe: Probe, prove: Prove
) -> tuple[ModelRef, Any]:
    """Rebuild the stage's model from disk and prove that it is the trained one.

    Returns its recipe and the model, merged where the strategy can. Raises ArtifactMismatchError.
    """
    import torch

    head = stage.head
    dtype = stage.strategy.weights_dtype(this_machine().on_gpu)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    if stage.strategy.capabilities.makes_base:
        made = ModelRef(str(artifact), Base(str(artifact), artifact).fingerprint, head=head)
        model = made.load_model(dtype=dtype)
        prove(
            "read_back_difference",
            prove_equal("The model read back", probe.live, probe.ask(model), tolerance),
        )
        return made, model
    stand = stands_on(stage, source)
    adapter = AdapterRef(artifact, adapter_digest(artifact), stand.fingerprint)
    if (quantised := stage.strategy.base_format) is not None:
        model = stand.load_model(dtype=dtype)
        if head in TRAINED_HEADS:
            model = with_head(model, head, None if head == "reward" else Labels.read(artifact))
        model = stage.strategy.prepare_base(model)
        values = probe.ask(read_adapter(model, artifact))
        prove("read_back_difference", prove_equal("The adapter read back", probe.live, values, tolerance))
        del model
        return _nearer_merge(quantised, stand, adapter, head, dtype, probe, prove)
    made = stand.with_adapter(adapter, head)
    model = made.load_unmerged(dtype=dtype)
    prove(
        "read_back_difference", prove_equal("The adapter read back", probe.live, probe.ask(model), tolerance)
    )
    if not stage.strategy.capabilities.mergeable:
        return made, model.eval()
    model = merge(model).eval()
    prove("merged_difference", prove_equal("The merged model", probe.live, probe.ask(model), 10 * tolerance))
    return made, model


def _nearer_merge(
    quantised: Format,
    stand: ModelRef,
    adapter: AdapterRef,
    head: Head,
    dtype: Any,
    probe: Probe,
    prove: Prove,
) -> tuple[ModelRef, Any]:
    """A QLoRA adapter was trained on quantised weights: merge it onto those and onto the 16-bit ones, keep the nearer.

    Nearer: smaller mean KL(trained || merged) in nats per token; of a reward model, smaller mean score difference.
    """
    nearest: tuple[float, ModelRef, Any] | None = None
    for onto in (quantised, "weights"):
        made = stand.with_adapter(replace(adapter, merge_onto=onto), head)
        model = merge(made.load_unmerged(dtype=dtype)).eval()
        values = probe.ask(model)
        drift = (
            mean_kl(probe.live, values)
            if head in ("causal_lm", "seq2seq_lm")
            else float((probe.live - values).abs().mean())
        )
        prove(f"merge_drift_{onto}", drift)
        if nearest is None or drift < nearest[0]:
            nearest = drift, made, model
    assert nearest is not None
    return nearest[1], nearest[2]
