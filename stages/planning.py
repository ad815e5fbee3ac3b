"""What a stage will cost, from configs and token counts alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import SettingError

from ..pipeline import ModelRef, StagePlan
from ..pipeline.heads import TRAINED_HEADS, Labels, auto_class, with_head
from ..pipeline.model_folder import read_config
from ..pipeline.quantization import layers_to_quantise
from .machine import this_machine
from .token_tables import Request, Tables, load_tables

if TYPE_CHECKING:
    from .training_stage import TrainingStage

_OPTIMIZER_BYTES = 4 + 8  # per trained parameter: float32 gradient and AdamW's two moments
_FRAGMENTATION = 1.1  # measured: what allocators hold between tensors of changing sizes
_NF4_BYTES = 0.56  # per parameter: 4 bits and the doubly quantised scales
_CHECKPOINTS = 3  # two kept and one being written
_TOKENIZER_BYTES = 5_000_000
_MEMORY_SHARE = 0.9
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer")  # the first ones belong to padding


@dataclass(frozen=True)
class Sizes:
    """A model's shape under a strategy."""

    total: int  # parameters with the adapters
    trainable: int
    beside: int  # of the trainable ones: of a critic's adapter and head beside the policy's
    linear: int  # parameters that a 4-bit base quantises
    buffers: int  # bytes of what is no parameter: BOFT's permutations, VeRA's projections
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int


def plan_stage(stage: TrainingStage, start: ModelRef) -> StagePlan:
    """Counts of the real token tables, exact parameter counts, estimated memory and disk."""
    base, tables = start.find(), tables_of(stage.request, start)
    report, held = tables.report, tables.held_out_report
    sizes = _sizes_of(stage, base.folder, tables.labels)
    stage.strategy.check_schedule(stage.schedule(len(tables.train)), sizes.layers)
    longest = stage.longest_sequence(report.length_max)
    _check_positions(stage, max(longest, stage.longest_sequence(held.length_max) if held else 0), base.config)
    notes = tables.lines()
    if not stage.strategy.capabilities.checkpointable and _is_tight(stage, start, longest, tables.labels):
        notes.append(
            f"a batch of the longest rows may not fit into memory, and {type(stage.strategy).__name__} cannot compute "
            "activations again to save some; lower batch_size or max_length"
        )
    return StagePlan(
        rows_read=tables.rows_read,
        rows=len(tables.train),
        tokens=report.tokens,
        trained_share=report.trained_tokens / max(1, report.tokens),
        cut=report.rows_cut + (held.rows_cut if held else 0),
        dropped=report.rows_dropped + (held.rows_dropped if held else 0),
        held_out=len(tables.held_out) if tables.held_out else 0,
        steps=stage.steps(len(tables.train)),
        trainable_parameters=sizes.trainable,
        total_parameters=sizes.total,
        memory_bytes=memory_bytes(
            stage, sizes, longest, wants_checkpointing(stage, start, longest, tables.labels)
        ),
        disk_bytes=_disk_bytes(stage, sizes),
        notes=tuple(notes),
    )


def tables_of(request: Request, start: ModelRef) -> Tables:
    """The token tables of some data with the tokenizer of a model."""
    from ..pipeline.base_models import shared_tokenizer

    base = start.find()
    return load_tables(request, shared_tokenizer(base.folder), base.tokenizer_fingerprint)


def _check_positions(stage: TrainingStage, longest: int, config: Mapping[str, Any]) -> None:
    """Raises SettingError when rows are longer than what the model was made for: it would train on noise, or fail."""
    text = config.get("text_config") or config
    positions = text.get("max_position_embeddings") or text.get("n_positions")
    if "relative_attention_num_buckets" in text:
        return  # T5's n_positions is what it was trained on, and no limit
    if text.get("model_type") in _PADDED_POSITIONS and positions:
        positions -= text.get("pad_token_id", 1) + 1
    if positions and longest > positions:
        if virtual := stage.strategy.virtual_tokens:
            raise SettingError(
                f"Stage {stage.title}: rows of {longest - virtual} tokens and the {virtual} of "
                f"{type(stage.strategy).__name__} in front of them are more than the model's {positions} positions; set "
                f"max_length={max(1, positions - virtual)} and say with overlong= what becomes of longer rows, or take fewer tokens."
            )
        raise SettingError(
            f"Stage {stage.title}: max_length={stage.max_length} lets rows of {longest} tokens in, and the model has "
            f"{positions} positions; set max_length={positions} and say with overlong= what becomes of longer rows."
        )


def wants_checkpointing(
    stage: TrainingStage, start: ModelRef, longest: int, labels: Labels | None = None
) -> bool:
    """Recompute activations (slower by a third and more) only where a batch of the longest rows would not fit.

    longest: tokens of the longest sequence. labels: of a classification head.
    """
    given = stage.trainer_args.get("gradient_checkpointing")
    if given is not None:
        return bool(given)
    return stage.strategy.capabilities.checkpointable and _is_tight(stage, start, longest, labels)


def _is_tight(stage: TrainingStage, start: ModelRef, longest: int, labels: Labels | None) -> bool:
    """Whether a batch of the longest rows would leave less than a tenth of the memory free."""
    sizes = _sizes_of(stage, start.find().folder, labels)
    return memory_bytes(stage, sizes, longest, False) > _MEMORY_SHARE * this_machine().memory_bytes


def memory_bytes(stage: TrainingStage, sizes: Sizes, length: int, checkpointing: bool) -> int:
    """Weights, gradients, optimizer, activations of one batch, and the logits of the fused head's blocks."""
    capabilities, on_gpu = stage.strategy.capabilities, this_machine().on_gpu
    width = stage.strategy.weights_dtype(on_gpu).itemsize  # bytes of a frozen parameter
    frozen = sizes.total - sizes.trainable
    quantised = sizes.linear if capabilities.four_bit_base else 0
    weights = (frozen - quantised) * width + quantised * _NF4_BYTES + sizes.trainable * 4
    weights += sizes.buffers
    weights *= stage.bases
    tokens = stage.batch_size * stage.sequences_per_row * length
    # Kept per layer and token, counted on the embedded model with LoRA on every linear layer: inputs of layers and
    # adapters, norms, rotary copies, attention, and the three products of the feed-forward block.
    per_token = (21 * sizes.hidden + 9 * sizes.intermediate) * (2 if this_machine().bf16 else 4)
    kept_layers = 1 if checkpointing else sizes.layers
    activations = tokens * (per_token * kept_layers + sizes.hidden * 4 * sizes.layers)
    head = min(tokens, 1024) * sizes.vocabulary * 4 * 2 if stage.task in ("policy", "seq2seq") else 0
    return int((weights + sizes.trainable * _OPTIMIZER_BYTES + activations + head) * _FRAGMENTATION)


def _disk_bytes(stage: TrainingStage, sizes: Sizes) -> int:
    """Checkpoints kept while training, and what stays."""
    artifact = sizes.trainable * 4 + _TOKENIZER_BYTES
    return (artifact + sizes.trainable * 8) * _CHECKPOINTS + artifact


def _sizes_of(stage: TrainingStage, folder: Path, labels: Labels | None) -> Sizes:
    sizes = _sizes(stage.strategy, stage.task, folder, labels)
    if (critic := stage.trained_beside) is None:
        return sizes
    beside = _sizes(critic, "reward", folder, None).trainable
    return replace(sizes, total=sizes.total + beside, trainable=sizes.trainable + beside, beside=beside)


@lru_cache(maxsize=16)
def _sizes(strategy: Any, task: Any, folder: Path, labels: Labels | None) -> Sizes:
    """Exact counts from a model without storage."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            model = auto_class(read_config(folder)).from_config(config)
        model.requires_grad_(False)
        if task in TRAINED_HEADS:
            model = with_head(model, task, labels)
        linear = sum(layer.weight.numel() for _, layer in layers_to_quantise(model))
        with torch.device("meta"):
            model = strategy.wrap(model, task, 0)
    text = config.get_text_config()
    parameters = list(model.parameters())
    return Sizes(
        total=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        beside=0,
        linear=linear,
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers
        + (getattr(text, "decoder_layers", None) or getattr(text, "num_decoder_layers", 0)),
        vocabulary=text.vocab_size,
    )
