"""`posttrain export`: a trained model in a form that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.commands.output import AsJson, as_bytes, print_json


def export(
    run: Annotated[str, typer.Argument(metavar="RUN[:STAGE]", help="A run folder, or one of its stages.")],
    format: Annotated[str, typer.Option(help="merged, adapter or gguf.")] = "merged",
    dtype: Annotated[str | None, typer.Option(help="Of the weights: bf16 (if not given), f16, f32; of gguf f16 (if not given), f32, q8_0.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to make; exports/STAGE-FORMAT-DTYPE in the run folder if not given.")] = None,
    shard_size: Annotated[str, typer.Option(help="Of one weight file, as in 500MB.")] = "5GB",
    base: Annotated[Path | None, typer.Option(help="Where the base model is now, when it is not found.")] = None,
    llama_cpp: Annotated[Path | None, typer.Option(help="A llama.cpp checkout, for GGUF of other models or quantisations.")] = None,
    max_drift: Annotated[float | None, typer.Option(help="Nats per token that the export may be away from the trained model.")] = None,
    json: AsJson = False,
) -> None:  # fmt: skip
    """Write a run's model for others to use, read it back in a fresh process, and compare; a failed check leaves nothing."""
    from posttrain import Export
    from posttrain.stages.export.source import read_source
    from posttrain.stages.export.work import export_model

    wanted = Export(
        format,  # type: ignore[arg-type]
        dtype=dtype,
        shard_size=shard_size,
        llama_cpp=llama_cpp,
        max_drift=max_drift,
    )
    source = read_source(run, base)
    name = "-".join(
        one for one in (source.stage.name if source.stage else "base", format, wanted.resolved_dtype) if one
    )
    target = (out or source.run.folder / "exports" / name).expanduser().resolve()
    done = export_model(wanted, source, target, (lambda _: None) if json else print)
    if json:
        print_json({"folder": str(done.folder), "bytes": done.bytes, **done.facts})
        return
    golden = done.facts["golden"]
    worst = max(golden["read_back"].values(), default=None)
    shown = "" if worst is None else f", read back within {worst:.2g} of the largest output"
    print(f"{done.folder}  ({as_bytes(done.bytes)})")
    print(
        f"{golden['prompts']} golden prompts: equal token ids{shown}, {golden['drift']:.2g} nats per token from the trained model "
        f"({golden['drift_allowed']:g} allowed), {golden['same_choice']:.1%} equal choices"
    )
