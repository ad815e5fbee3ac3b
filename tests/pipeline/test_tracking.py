"""Trackers are fed and can be read back; without a key wandb stays offline and asks nothing."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, LoRA, Pipeline

Rows = dict[str, list[dict[str, Any]]]


def stage(rows: Rows) -> SFT:
    return SFT(LoRA(r=2), data=rows["chat"], max_steps=2, batch_size=4)


def test_tensorboard_holds_every_step(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny([stage(rows)], track="tensorboard").run()
    events = EventAccumulator(str(run["sft"].folder / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(line["step"], pytest.approx(line["loss"])) for line in run["sft"].history]


def records_of(log: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a 7-byte file header, then LevelDB's log format in blocks of 32 KB."""
    at, parts = 7, b""
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:  # the rest of a block that no header fits into
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", log, at + 4)
        if kind == 0:
            return
        parts = parts * (kind in (3, 4)) + log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts


@pytest.mark.slow
def test_wandb_runs_offline_with_group_and_config(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tiny([stage(rows)], track="wandb").run()
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # finish() only asks for it; the service writes the file to its end as it shuts down
    files = list((run["sft"].folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1
    group, steps, config = "", [], []
    for data in records_of(files[0].read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            group = record.run.run_group
            config = [update.key for update in record.run.config.update]
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "step" in items:
                steps.append(int(items["step"]))
    assert group == run.folder.name
    assert steps == [1, 2]
    assert {"type", "seed", "settings", "lineage"} <= set(config)
