"""Files that run code when they are unpickled: each makes a marker, and no test may ever see one."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path


class _Touch:
    """Pickled, it is a call that makes the file; it is never made here."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch '{self._marker}'",)


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(_Touch(marker), protocol=2))


def as_torch_zip(path: Path, marker: Path) -> None:
    """The layout of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state": _Touch(marker)}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def as_npy(path: Path, marker: Path) -> None:
    """An array of one object, as numpy writes it."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    content = pickle.dumps([_Touch(marker)], protocol=2)
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content)


KINDS: Mapping[str, Callable[[Path, Path], None]] = {
    "pytorch_model.bin": as_torch_zip,
    "model.pt": as_torch_zip,
    "consolidated.00.pth": as_torch_zip,
    "model.ckpt": as_pickle,
    "optimizer.pt": as_torch_zip,
    "scheduler.pt": as_torch_zip,
    "rng_state.pth": as_pickle,
    "training_args.bin": as_torch_zip,
    "adapter_model.bin": as_torch_zip,
    "embeddings.npy": as_npy,
    "tokenizer.pkl": as_pickle,
    "model.joblib": as_pickle,
}


def plant(folder: Path, marker: Path, names: tuple[str, ...] = tuple(KINDS)) -> None:
    for name in names:
        KINDS[name](folder / name, marker)
