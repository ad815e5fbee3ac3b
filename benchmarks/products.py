"""How long the matrix products of some training take on this machine, measured now: no trainer can be faster than that.

    python benchmarks/products.py job.json

The products have the model's own shapes, a batch's mean number of tokens for rows, and weights of their own in each layer, so
that they come from memory as a model's do. Counted are the forward pass and the backward pass through frozen weights
(4 N T; the attention's own products and an adapter's are left out, in favour of the limit), and the head for labelled tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROUNDS = 3


def seconds(job: Mapping[str, Any]) -> float:
    """Of the whole work: `steps` steps, each `passes` times through all layers with the mean tokens of a step.

    job: "base" (a folder with a config.json), "tokens" and "labelled" of all steps together, "steps", and "passes", the number
    of products of a token with all weights: 2 for a forward pass with a backward pass through frozen weights.
    """
    config = json.loads((Path(job["base"]) / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    layers = [[torch.randn(shape) for shape in shapes] for _ in range(config["num_hidden_layers"])]
    head = [torch.randn(config["vocab_size"], hidden)]
    tokens, labelled = job["tokens"] // job["steps"], job["labelled"] // job["steps"]
    of_layers = median_seconds([each for layer in layers for each in layer], tokens)
    of_head = median_seconds(head, labelled) if job["work"] != "reward" else 0.0
    return float(job["steps"] * job["passes"] / 2 * (of_layers + of_head))


def model_flops(
    config: Mapping[str, Any], tokens: float, labelled: float, length: float, *, full: bool, rank: int = 0,
    head: bool = True, forwards: int = 1,
) -> float:  # fmt: skip
    """Floating-point operations that training on some tokens asks for, in rows of `length` tokens.

    6 for each token and parameter that trains and 4 where it is frozen, six more for an adapter's on all linear layers, and
    the attention's, causal: two products of half the pairs of tokens, once forwards and twice backwards. Nothing is
    computed again. labelled: tokens that go through the head. forwards: 2 with a reference's.
    """
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    attention, keys = heads * size, config["num_key_value_heads"] * size
    layer = 2 * hidden * attention + 2 * hidden * keys + 3 * hidden * inner
    sides = (
        2 * (hidden + attention) + 2 * (hidden + keys) + 3 * (hidden + inner)
    )  # of an adapter, for each rank
    passes, layers = (4 if full else 2) + 2 * forwards, config["num_hidden_layers"]
    products = layers * layer * tokens + hidden * config["vocab_size"] * labelled * head
    return float(
        passes * products
        + 6 * rank * sides * layers * tokens
        + (2 + forwards) * 2 * length * attention * layers * tokens
    )


def median_seconds(weights: Sequence[torch.Tensor], tokens: int) -> float:
    """Each weight once forwards and once backwards; nothing is allocated or drawn in that time."""
    sizes = {size for weight in weights for size in weight.shape}
    given, out = ({size: torch.randn(tokens, size) for size in sizes} for _ in range(2))
    times = []
    for _ in range(ROUNDS + 1):
        begun = time.monotonic()
        for weight in weights:
            rows, columns = weight.shape
            torch.mm(given[columns], weight.t(), out=out[rows])
            torch.mm(given[rows], weight, out=out[columns])
        times.append(time.monotonic() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    print(seconds(json.loads(Path(sys.argv[1]).read_text())))
