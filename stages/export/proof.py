"""That an export is the model that was trained: read by a process that knows nothing of posttrain, and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import DriftError, ExportMismatchError

from ...pipeline.durable import write_json
from .golden import Golden, agreement, drift, largest_difference

# Between what the fresh process computes and what the same rounded weights give here, as a share of the largest value.
READ_BACK = 1e-3
# Nats per token that weights of a dtype may be away from the trained model; "" is an adapter, which is not rounded.
DRIFT: Mapping[str, float] = {"": 1e-3, "f32": 1e-3, "f16": 0.01, "bf16": 0.02, "q8_0": 0.05}
LLAMA_CPP_DRIFT = 0.25  # of its other quantisations
QLORA_DRIFT = 0.05  # of a merge into other weights than the quantised ones that it was trained on


def drift_limit(dtype: str, quantised: bool, given: float | None) -> float:
    """What is allowed, in nats per token."""
    if given is not None:
        return given
    own = DRIFT.get(dtype, LLAMA_CPP_DRIFT)
    return max(own, QLORA_DRIFT) if quantised and dtype else own


def prove(
    golden: Golden, trained: Sequence[Any], expected: Sequence[Any] | None, task: Mapping[str, Any], limit: float
) -> dict[str, Any]:  # fmt: skip
    """Read back what `task` describes and compare; returns the figures.

    trained: answers of the model as it was trained. expected: of the very weights that were written; None where
    llama.cpp wrote them. limit: of the drift. Raises ExportMismatchError, DriftError.
    """
    from safetensors.torch import load_file

    said = _read_back(task)
    _check_ids(golden, said["ids"])
    if (template := task.get("template")) and said["chat_template"] != template:
        raise ExportMismatchError("The export holds another chat template than the run's; nothing was left.")
    read: dict[str, float] = {}
    answers: list[Any] = []
    written = expected
    for reader in ("plain", "transformers_gguf"):
        if path := task["answers"].get(reader):
            held = load_file(path)
            answers = [held[str(i)] for i in range(len(held))]
            written = answers if written is None else written  # then the readers are compared with each other
            read[reader] = largest_difference(written, answers)
    if "padded_difference" in said:
        read["padded"] = said["padded_difference"] / max(float(one.abs().max()) for one in answers)
    for reader, difference in read.items():
        if not difference <= READ_BACK:
            raise ExportMismatchError(
                f"The export read back ({reader}) differs from what was written by {difference:.3g} of its largest output "
                f"on the golden prompts, where {READ_BACK:g} is allowed; nothing was left."
            )
    moved = drift(trained, answers)
    if not moved <= limit:
        raise DriftError(
            f"The export is {moved:.3g} away from the trained model, in nats per token, where {limit:g} is allowed; take "
            "another dtype, or allow it with max_drift. Nothing was left."
        )
    return {
        "prompts": len(golden.cases),
        "tokens": sum(map(len, golden.asked)),
        "token_ids_equal": True,
        "read_back": {} if expected is None else read,
        "read_back_allowed": READ_BACK,
        "drift": moved,
        "drift_allowed": limit,
        "same_choice": agreement(trained, answers),
    }


def _read_back(task: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ExportMismatchError when the fresh process cannot read the export at all."""
    path = Path(task["check"]) / "task.json"
    write_json(path, task)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    # -P: or the script's own folder would come first among the places of imports
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("read_back.py"), path],
        env={**os.environ, **offline}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ExportMismatchError(
            f"The export cannot be read back in a fresh process ({lines[-1] if lines else done.returncode}); nothing was left."
        )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _check_ids(golden: Golden, found: Sequence[Sequence[int]]) -> None:
    for case, ids, other in zip(golden.cases, golden.ids, found, strict=True):
        if list(other) != ids:
            same = [one == two for one, two in zip(ids, other, strict=False)]
            at = same.index(False) if False in same else len(same)
            raise ExportMismatchError(
                f"The export's tokenizer gives other tokens than the run's for {str(case.get('chat', case.get('text')))[:60]!r}: "
                f"from token {at} on {list(other)[at : at + 5]} instead of {ids[at : at + 5]}; nothing was left."
            )
