"""The report's file in the run folder."""

from __future__ import annotations

from pathlib import Path

from posttrain.pipeline.durable import write_bytes
from posttrain.pipeline.run import REPORT_FILE

from .reading import read_report


def write_report(run_dir: Path, target: Path | None = None) -> Path:
    """Replace the page in one step, so that it can be reloaded while the run goes; returns where it is.

    target: another file than `report.html` in the run folder. Raises RunFolderError where there is no run, and
    CorruptArtifactError where a record was changed.
    """
    from .page import as_page

    target = run_dir / REPORT_FILE if target is None else target
    write_bytes(target, as_page(read_report(run_dir)).encode())
    return target
