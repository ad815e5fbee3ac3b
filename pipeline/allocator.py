"""Keep freed memory in the process while a stage trains on a CPU, and give it back between its parts and afterwards.

glibc returns every large block to the system when it is freed, and the next step faults the same pages in again:
a quarter of the time of a LoRA step on the embedded model.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_DEFAULT = 128 * 1024
_LARGE, _KEPT = 1 << 20, 1 << 30


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, blocks below 1 GB are reused instead of returned; does nothing without glibc."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _KEPT)
    libc.mallopt(_TRIM_THRESHOLD, 2 * _KEPT - 1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, _DEFAULT)
        libc.malloc_trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Inside `freed_memory_kept`: blocks from 1 MB are returned after all, which takes time, and less than half the memory.

    For a step that computes activations again: glibc puts what it keeps, a small block in each layer, into the places of
    the large ones between, so that these find none in the next layer.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _KEPT)


def give_back_freed_memory() -> None:
    """Return what is free now, where a part of a stage ends whose tensors the next part has no use for.

    What is loaded next, such as a model's mapped file, finds no place in kept memory, and would come on top of it.
    """
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
