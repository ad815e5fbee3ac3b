"""A model's shape under a strategy, counted on a model without storage: exact, and no weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipeline.cache import cache_folder
from ...pipeline.digests import digest_of, digest_of_code
from ...pipeline.durable import write_json
from ...pipeline.heads import TRAINED_HEADS, Labels, auto_class, with_head
from ...pipeline.model_folder import read_config
from ...pipeline.quantization import layers_to_quantise
from ...pipeline.remote_code import code_refused, trusts_remote_code
from .known_sizes import SHAPES

if TYPE_CHECKING:
    from ..training_stage import TrainingStage


@dataclass(frozen=True)
class Sizes:
    """Parameters, and the widths (values per token) of what a backward pass needs."""

    total: int  # parameters with the adapters
    trainable: int
    buffers: int  # bytes of what is no parameter: BOFT's permutations, VeRA's projections
    beside: int  # of the trainable ones: of a critic's adapter and head beside the policy's
    linear: int  # parameters that a 4-bit base quantises
    largest: int  # of them, those of the largest layer
    head_trained: bool  # the output head's weights get a gradient
    head_capped: bool  # its logits are squeezed by a tanh, as Gemma 2's are
    hidden: int
    intermediate: int
    attention: int  # width of all query heads together
    heads: int
    layers: int
    trained_layers: int  # from the lowest one that is trained to the top: only through these goes a gradient
    vocabulary: int
    packs: bool  # on a CPU, batches go through it without padding,
    shares: bool  # and what their rows begin with once
    # Summed over the layers that a gradient goes through:
    norms: int  # widths of the norms
    trained_norms: int
    inputs: int  # widths of the different inputs of the linear layers that are trained or adapted
    reads: int  # widths of these layers' inputs, an input counted for each layer that reads it
    writes: int  # widths of the adapted layers' outputs
    ranks: int
    kept_outputs: int  # widths of adapted layers' outputs that the adapter's own gradient needs


def sizes_of(stage: TrainingStage, source: Path | str, labels: Labels | None = None) -> Sizes:
    """source: a folder with a config.json, or a name in SHAPES. labels: of a classification head."""
    sizes = _sizes(stage.strategy, stage.task, source, labels)
    if (critic := stage.trained_beside) is None:
        return sizes
    beside = sizes.hidden if critic == "head" else _sizes(critic, "reward", source, None).trainable
    return replace(sizes, total=sizes.total + beside, trainable=sizes.trainable + beside, beside=beside)


@lru_cache(maxsize=64)
def _sizes(strategy: Any, task: Any, source: Path | str, labels: Labels | None) -> Sizes:
    """Counted once per user: importing what it takes to build a model and its adapters needs seconds."""
    if not type(strategy).__module__.startswith("posttrain.") or trusts_remote_code():
        return _count(strategy, task, source, labels)  # code of which no version is known
    config = SHAPES[str(source)] if source in SHAPES else read_config(Path(source))
    versions = [version(library) for library in ("torch", "transformers", "peft")]
    key = [repr(strategy), task, str(source), config, repr(labels), versions, _our_code()]
    note = cache_folder() / "sizes" / f"{digest_of(key)[:32]}.json"
    try:
        return Sizes(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        sizes = _count(strategy, task, source, labels)
        with suppress(OSError):  # where nothing can be kept it is counted again
            write_json(note, asdict(sizes))
        return sizes


@lru_cache(maxsize=1)
def _our_code() -> str:
    import posttrain.pipeline
    import posttrain.stages

    return digest_of_code(posttrain.pipeline, posttrain.stages)


def _count(strategy: Any, task: Any, source: Path | str, labels: Labels | None) -> Sizes:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    from ...pipeline.packed_rows import drops, packable

    kind = AutoModelForCausalLM
    if source in SHAPES:
        config = LlamaConfig(**SHAPES[str(source)])
    else:
        kind = auto_class(read_config(Path(source)))
        with code_refused(source):
            config = AutoConfig.from_pretrained(
                source, local_files_only=True, trust_remote_code=trusts_remote_code()
            )
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"), code_refused(source):
            model = kind.from_config(config, trust_remote_code=trusts_remote_code())
        model.requires_grad_(False)
        decoder = getattr(model, model.base_model_prefix, model)
        packs = packable(model) and not strategy.virtual_tokens
        if task in TRAINED_HEADS:
            model = with_head(model, task, labels)
        quantised = [layer.weight.numel() for _, layer in layers_to_quantise(model)]
        with torch.device("meta"):
            model = strategy.wrap(model, task, 0)
    text, parameters = config.get_text_config(), list(model.parameters())
    head = model.get_output_embeddings() if task in ("policy", "seq2seq") else None
    stack = _layers(model)
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in stack]
    first = trained.index(True) if any(trained) else len(stack)
    if model.get_input_embeddings().weight.requires_grad:
        first = 0
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    widths = [_widths(layer, text.hidden_size, heads, keys) for layer in stack[first:]]
    return Sizes(
        total=sum(p.numel() for p in parameters),
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        beside=0,
        linear=sum(quantised),
        largest=max(quantised, default=0),
        head_trained=head is not None and head.weight.requires_grad,
        head_capped=getattr(text, "final_logit_softcapping", None) is not None,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention=heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        heads=heads,
        layers=len(stack),
        trained_layers=len(stack) - first,
        vocabulary=text.vocab_size,
        packs=packs,
        shares=packs and not drops(decoder.train()),
        **{name: sum(each[name] for each in widths) for name in _WIDTHS},
    )


_WIDTHS = ("norms", "trained_norms", "inputs", "reads", "writes", "ranks", "kept_outputs")


def _layers(model: Any) -> list[Any]:
    """The transformer layers: of the lists of modules the outer ones, since a layer may hold a list of experts."""
    import torch

    lists = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for name in outer for layer in lists[name]]


def _widths(layer: Any, hidden: int, heads: int, keys: int) -> dict[str, int]:
    """The sums of `_WIDTHS` for one transformer layer."""
    found = dict.fromkeys(_WIDTHS, 0)
    for name, module in layer.named_modules():
        if type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None:
            width = module.weight.numel()
            if width < hidden:  # of each head, and the heads share the weights
                width *= keys if name.endswith("k_norm") else heads
            found["norms"] += width
            found["trained_norms"] += width * module.weight.requires_grad
    different = set()
    for name, linear in _trained_linears(layer):
        different.add((name.rpartition(".")[0], linear.in_features))  # q, k and v read the same tensor
        found["reads"] += linear.in_features
        if (adapter := _adapter(linear)) is not None:
            found["writes"] += linear.out_features
            found["ranks"] += adapter[0]
            found["kept_outputs"] += adapter[1] * linear.out_features
    found["inputs"] = sum(width for _, width in different)
    return found


def _trained_linears(layer: Any) -> Iterator[tuple[str, Any]]:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [
        (name, m) for name, m in layer.named_modules() if isinstance(m, BaseTunerLayer) and _is_wide(m)
    ]
    yield from adapted
    inside = tuple(f"{name}." for name, _ in adapted)
    for name, module in layer.named_modules():
        trained = isinstance(module, torch.nn.Linear) and module.weight.requires_grad
        if trained and not name.startswith(inside):
            yield name, module


def _is_wide(module: Any) -> bool:
    return bool(getattr(module, "in_features", 0) and getattr(module, "out_features", 0))


def _adapter(module: Any) -> tuple[int, int] | None:
    """(rank, how many copies of the layer's output its gradient needs); None for a layer without an adapter."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(module, BaseTunerLayer):
        return None
    ranks = getattr(module, "r", None)
    rank = int(ranks.get("default", 0)) if isinstance(ranks, dict) else 0
    if not isinstance(module, LoraLayer):
        return rank, 1  # scales and rotations: an upper bound, IA3, VeRA and OFT keep up to 15 % less
    return rank, 2 if len(module.lora_magnitude_vector) else 0  # DoRA scales base and update
