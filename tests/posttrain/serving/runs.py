"""Run folders with random adapters on the tiny random model: what a chain leaves, made in a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.pipeline import AdapterRef, ModelRef, Run
from posttrain.pipeline.durable import commit_folder, write_sealed
from posttrain.pipeline.model_ref import adapter_digest
from posttrain.pipeline.plain_lora import Factors, PlainLora
from posttrain.pipeline.run import RUN_FILE, StageRecord

SHAPES = {
    "self_attn.q_proj": (128, 128),
    "self_attn.v_proj": (64, 128),
    "mlp.down_proj": (128, 256),
}  # (out, in)


def random_lora(seed: int, rank: int, names: Sequence[str] = tuple(SHAPES), size: float = 0.25) -> PlainLora:
    """Large enough that greedy answers differ from the base's from the first tokens on."""
    draw = torch.Generator().manual_seed(seed)
    return PlainLora(
        {
            f"model.layers.{i}.{name}": Factors(
                torch.randn(rank, SHAPES[name][1], generator=draw) * size,
                torch.randn(SHAPES[name][0], rank, generator=draw) * size,
            )
            for i in range(2)
            for name in names
        }
    )


def write_run(folder: Path, loras: Mapping[str, PlainLora], *, change: Any = None) -> Run:
    """A lineage: each stage's adapter stands on the stages before it. change: (folder of an adapter) edits its files."""
    start = ModelRef.of_base("tiny-random")
    made, entries = start, []
    for name, lora in loras.items():
        place = folder / "stages" / name
        place.mkdir(parents=True)

        def fill(aside: Path, lora: PlainLora = lora) -> None:
            lora.save(aside)
            if change:
                change(aside)

        commit_folder(place / "adapter", fill, {"stands_on": made.fingerprint})
        adapter = AdapterRef(place / "adapter", adapter_digest(place / "adapter"), made.fingerprint)
        made = made.with_adapter(adapter)
        StageRecord(
            name=name, type="SFT", key="k", folder=place, models={"policy": made}, metrics={}, data={}, proofs={},
            samples=[], settings=[], seconds=1.0,
        ).write(folder)  # fmt: skip
        entries.append({"name": name, "folder": f"stages/{name}"})
    value = {"posttrain": "0.1.0", "pipeline": [*loras], "model": "tiny-random", "seed": 0}
    write_sealed(folder / RUN_FILE, value | {"start": start.as_dict(folder), "stages": entries})
    return Run.load(folder)


def generated(ref: ModelRef, prompt: Sequence[int], tokens: int) -> list[int]:
    """What the model's own `generate` answers, greedily and alone."""
    model = ref.load_model()
    ids = torch.tensor([list(prompt)])
    end = model.generation_config.eos_token_id
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)[0]
    return [token for token in out[len(prompt) :].tolist() if token != end]
