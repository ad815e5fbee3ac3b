"""The memory of a training step, term by term, from a model's shape: no weights are loaded.

What a layer keeps for its backward pass was counted with torch.autograd.graph.saved_tensors_hooks, and
tests/stages/test_memory.py counts it again; benchmarks/memory.py compares the whole with what a process takes.

# H hidden, Q all query heads together, I intermediate; widths in values per token
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from ...pipeline import Ranks
from ..machine import Machine

if TYPE_CHECKING:
    from ..strategies import Strategy
    from ..training_stage import TrainingStage
    from .batches import Batch
    from .sizes import Sizes

# Per weight: 4 bits, a byte per 64 of them, 4 bytes per 256 of those; or a byte, and 4 for each row of thousands.
_QUANTISED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.001}
_HEAD_TOKENS, _HEAD_COLUMNS = 4096, 32768  # tile of logits that TRL's fused head works on
_BLOCK_TOKENS, _BLOCK_COLUMNS = 1024, 4096  # frozen_head's, which is not imported since it imports torch
_HEAD_TILES = 8.25  # of float32 that its backward pass holds without Triton, a mask of booleans among them
# What lies idle between tensors is measured, not counted: a share of all, and, beside adapters, the stage's `split_share`.
_IDLE = {"CPU": 0.1, "GPU": 0.05}  # on a GPU it is an allowance, not measured
_MEASURED_LOGITS, _MEASURED_TOKENS = 512e6, 128  # of a held-out batch, as evaluation.py takes them


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes held at the moment of a step when they are most.

    weights: of all models, with their quantisation's scales. adapter: trained parameters beside frozen weights.
    gradients, optimizer: of the trained parameters. activations: what the backward pass needs of the layers.
    logits: blocks of them in the head, and what is computed from these.
    allocator: what lies idle between tensors.
    """

    weights: int = 0
    adapter: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    allocator: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def estimate(
    stage: TrainingStage, sizes: Sizes, length: int, checkpointing: bool, machine: Machine,
    held_out_tokens: float = float("inf"), batch: Batch | None = None,
) -> MemoryEstimate:  # fmt: skip
    """The largest of the moments of a step and of the hand-over.

    length: tokens of the longest sequence. batch: of the data's largest one; None is padded rows of that length.
    """
    rows = stage.rows_at_once(length, sizes.hidden, machine.on_gpu)
    # Of FSDP's savings these two are counted. Weights are whole before and after training, which is when they are most.
    parts = Ranks.of_environment().parts
    strategy, padded = stage.strategy, rows * stage.sequences_per_row * length
    tokens, scored = (padded, padded) if batch is None else (batch.tokens, batch.scored)
    makes_base = strategy.capabilities.makes_base
    held = {
        "weights": stage.bases * (frozen_bytes(strategy, sizes, machine) + sizes.trainable * 4 * makes_base),
        # Twice where the reference is a frozen copy of it.
        "adapter": 0
        if makes_base
        else sizes.trainable * 4 * (2 if stage.has_reference and stage.copies_reference else 1),
        "optimizer": int(sizes.trainable * _optimizer_bytes(stage)) // parts,
    }
    gradients = sizes.trainable * 4 // parts
    # Gradients stay while the next micro-batch runs; without accumulation they come as activations go.
    before = gradients if stage.gradient_accumulation > 1 else 0
    kept = kept_bytes(stage, sizes, tokens, length, machine)
    layer = kept // max(1, sizes.trained_layers)
    residual = 2 if machine.bf16 and not makes_base else 4
    inputs = tokens * sizes.hidden * residual * sizes.layers + layer  # one layer is computed again at a time
    if machine.bf16 and not checkpointing:
        # Autocast's copies of the layers' trained weights, which the backward pass reads.
        kept += min(sizes.trainable, sizes.linear) * 2
    activations = inputs if checkpointing else kept
    head = head_bytes(stage, sizes, tokens, scored, machine)
    # Freed memory is kept on a CPU (pipeline/allocator.py), and an adapter's many small tensors are put into the places
    # of large ones, so that the next large ones get new places: the head's blocks, or what the layers compute between.
    # Where activations are computed again it is returned.
    idle = (
        0
        if machine.on_gpu or makes_base or checkpointing
        else max(head, int(stage.split_share * activations))
    )
    embeddings = sizes.vocabulary * sizes.hidden * 4 * sizes.head_trained
    moments = [
        # The backward pass begins: everything is kept, and the head's blocks come on top.
        MemoryEstimate(**held, gradients=before, activations=activations - layer * checkpointing, logits=head, allocator=idle),
        # It enters the layers: the head's blocks are gone, the top layer's gradients flow.
        MemoryEstimate(**held, gradients=before, activations=activations + layer, allocator=idle),
        # It ends. A tied head has given its gradient long ago, and the embeddings' is added to it.
        MemoryEstimate(**held, gradients=gradients + embeddings, activations=layer),
        # Held-out rows are measured between the steps.
        MemoryEstimate(**held, logits=_measuring_bytes(stage, sizes, length, held_out_tokens, machine)),
        # Training is over, and what it made is compared with what was read back.
        MemoryEstimate(weights=_handed_over_bytes(strategy, sizes, machine)),
    ]  # fmt: skip
    return _with_idle(max(moments, key=lambda each: each.total), machine)


def comparison(stage: TrainingStage, sizes: Sizes, machine: Machine) -> MemoryEstimate:
    """What is resident on a CPU while the check of what was forgotten goes from one model to the other: the mapped files of
    both, and three float32 copies of some tokens' logits. No reason to refuse a stage: where memory is short the
    system takes a mapped file's pages back.
    """
    if machine.on_gpu or not stage.checks_forgetting or stage.task != "policy":
        return MemoryEstimate()
    weights = 2 * sizes.total * stage.strategy.weights_dtype(on_gpu=False).itemsize
    logits = 3 * 4 * _MEASURED_TOKENS * sizes.vocabulary
    return _with_idle(MemoryEstimate(weights=weights, logits=logits), machine)


def _with_idle(moment: MemoryEstimate, machine: Machine) -> MemoryEstimate:
    counted = moment.total - moment.allocator
    return replace(
        moment, allocator=moment.allocator + int(counted * _IDLE["GPU" if machine.on_gpu else "CPU"])
    )


def frozen_bytes(strategy: Strategy, sizes: Sizes, machine: Machine) -> int:
    """Bytes of the parameters that are not trained, in one copy of the model."""
    width = strategy.weights_dtype(machine.on_gpu).itemsize
    frozen = sizes.total - sizes.trainable
    if (quantised := strategy.base_format) is None:
        return frozen * width + sizes.buffers
    small = sizes.linear * _QUANTISED_BYTES[quantised] + sizes.buffers
    if not machine.on_gpu:
        return int(frozen * width + small)  # the base's file stays mapped
    # A layer's weights are made 16-bit again while it computes.
    return int((frozen - sizes.linear + sizes.largest) * width + small)


def _handed_over_bytes(strategy: Strategy, sizes: Sizes, machine: Machine) -> int:
    """What the hand-over of a quantised base holds on a CPU, where it compares two merged models of whole weights."""
    if strategy.base_format is None or machine.on_gpu:
        return 0
    return 2 * (sizes.total - sizes.trainable) * strategy.weights_dtype(on_gpu=False).itemsize


def _optimizer_bytes(stage: TrainingStage) -> float:
    """Per trained parameter: AdamW's two moments, in float32 or in 8 bits."""
    return 2 if "8bit" in str(stage.trainer_args.get("optim", "")) else 8


def kept_bytes(stage: TrainingStage, sizes: Sizes, tokens: int, length: int, machine: Machine) -> int:
    """What the layers keep for their backward pass, of all tokens of a batch."""
    width = 2 if machine.bf16 else 4  # of what a product or an attention computes
    capabilities = stage.strategy.capabilities
    per_token: float = sizes.trained_layers * (
        4 * sizes.attention * width  # q, k, v (k and v repeated for each query head) and the output
        + 3 * sizes.intermediate * width  # gate, its activation, and up
        + length * width  # a row of the mask; the attention makes a number of each boolean
        + 4 * sizes.heads  # the attention's sums
        + 8  # the norms' root mean squares
    )
    per_token += sizes.norms * 4 + sizes.trained_norms * 4  # a norm's input; to train it, what it scales, too
    # A trained or adapted layer keeps its input. In 16 bits each has a copy of its own, as the norm gives 32; only the
    # trained output projection reads what the attention keeps.
    dropped = not capabilities.makes_base and bool(getattr(stage.strategy, "dropout", 0.0))
    if dropped or (machine.bf16 and not capabilities.four_bit_base):
        shared = sizes.attention * sizes.trained_layers if capabilities.makes_base else 0
        per_token += (sizes.reads - shared) * width
    else:
        per_token += sizes.inputs * width
    if dropped:
        per_token += sizes.reads * (1 if machine.on_gpu else 4)  # which inputs were dropped
    per_token += (sizes.ranks + sizes.kept_outputs) * width
    per_token += 3 * sizes.hidden * 4  # the last norm's input and output, and the head's copy
    return int(tokens * per_token)


def head_bytes(stage: TrainingStage, sizes: Sizes, tokens: int, scored: int, machine: Machine) -> int:
    """What the head holds for the tokens whose logits are needed: frozen on a CPU two small blocks, else what the backward
    pass of TRL's fused head does. A reward model's head has one column.
    """
    if stage.task not in ("policy", "seq2seq"):
        return 0
    rows = min(scored, _HEAD_TOKENS)
    if machine.on_gpu:  # Triton folds a tile where it stands
        tiles = rows * _HEAD_COLUMNS * 2
    elif stage.task == "policy" and not sizes.head_trained and not sizes.head_capped:
        block = min(scored, _BLOCK_TOKENS) * min(sizes.vocabulary, _BLOCK_COLUMNS)
        tiles = (2 * block + 2 * scored * sizes.hidden) * 4  # and the gradients that it gathers
    else:
        tiles = int(rows * min(sizes.vocabulary, _HEAD_COLUMNS) * 4 * _HEAD_TILES)
    gradients = tokens * sizes.hidden * 4 + sizes.vocabulary * sizes.hidden * 4 * sizes.head_trained
    return tiles + gradients


def _measuring_bytes(
    stage: TrainingStage, sizes: Sizes, length: int, held_out_tokens: float, machine: Machine
) -> int:
    """Logits of a held-out batch, and three float32 copies of those of some tokens."""
    if stage.task not in ("policy", "seq2seq"):
        return 0
    batch = max(_MEASURED_LOGITS / 4 / sizes.vocabulary, length)
    width = 2 if machine.on_gpu else 4
    return int((min(batch, held_out_tokens) * width + 3 * 4 * _MEASURED_TOKENS) * sizes.vocabulary)
