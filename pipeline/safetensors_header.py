"""What is wrong with a safetensors file, told from its header: without torch, and without reading the tensors."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

_LARGEST = 100_000_000  # bytes of a header, as in the format's own reader
_MOST_DIMENSIONS = 64
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16,
    "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def fault_of(file: Path) -> str | None:
    """What the file is instead of safetensors, as the end of a sentence; None where nothing is wrong.

    Every tensor must lie behind the one before it, without a gap, as long as its shape says, and the last one must end
    where the file does.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            return "is a Git LFS pointer, not the weights; fetch them with: git lfs pull"
        if len(start) < 8 or 8 + length > size:
            return f"is damaged or incomplete: its header does not fit its {size:,} bytes; fetch it again."
        if length > _LARGEST:
            return f"has a header of {length:,} bytes, and {_LARGEST:,} are allowed; fetch it again."
        header = opened.read(length)
    try:
        found = json.loads(header)
        wrong = _wrong_with(found, size - 8 - length)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        wrong = "it is no JSON object of tensors"
    return None if wrong is None else f"is damaged or incomplete: {wrong} (its header); fetch it again."


def _wrong_with(header: dict[str, Any], size: int) -> str | None:
    """size: bytes behind the header."""
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if any(not isinstance(value, str) for value in dict(header.get("__metadata__") or {}).values()):
        return "its metadata is no text"
    if not tensors:
        return "it holds no tensor"
    at = 0
    for name, entry in sorted(tensors.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            return f"the shape or place of {name[:80]!r} is no row of counts"
        if len(shape) > _MOST_DIMENSIONS:
            return f"{name[:80]!r} has {len(shape)} dimensions"
        if begin != at or end < begin:
            return f"{name[:80]!r} does not begin where the tensor before it ends"
        bits = _BITS.get(entry["dtype"])
        if bits is None:
            return f"{name[:80]!r} is of the unknown type {str(entry['dtype'])[:20]!r}"
        if (prod(shape) * bits + 7) // 8 != end - begin:
            return f"{name[:80]!r} is not as long as its shape says"
        at = end
    return None if at == size else f"its tensors end after {at:,} of {size:,} bytes"
