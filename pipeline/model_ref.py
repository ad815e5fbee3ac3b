"""A model as a recipe: a base and the adapters to merge onto it, in order; a few MB on disk, rebuilt bit-equal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import CorruptArtifactError, WrongBaseError

from .adapters import UNMERGEABLE, kind_of, merge, read_adapter
from .base_models import Base, Head, find_base, load_tokenizer, shared_tokenizer
from .digests import digest_of
from .durable import MANIFEST, digest_of_manifest, inside, read_sealed, verify_folder
from .heads import TRAINED_HEADS, Labels, auto_class, with_head
from .quiet import quiet_libraries
from .remote_code import code_refused, trusts_remote_code


@dataclass(frozen=True)
class AdapterRef:
    """A trained adapter and the one model that it fits."""

    folder: Path  # committed: PEFT files beside a manifest
    digest: str  # over the manifest, so over every byte of the adapter
    base_fingerprint: str  # of the model that it was trained on
    merge_onto: Literal["weights", "nf4", "int8"] = "weights"  # or onto what 4- or 8-bit weights compute with

    @property
    def mergeable(self) -> bool:
        """Whether its kind can join the weights; one that cannot stays live."""
        return kind_of(self.folder) not in UNMERGEABLE

    def verify(self) -> None:
        """Raises CorruptArtifactError when the files are not the ones that were committed."""
        if digest_of_manifest(verify_folder(self.folder)) != self.digest:
            raise CorruptArtifactError(f"{self.folder} is not the adapter that its run recorded.")


@dataclass(frozen=True)
class ModelRef:
    """An immutable recipe for a model.

    >>> model, tokenizer = run.model.load()   # doctest: +SKIP
    """

    base: str  # "embedded", "tiny-random", a Hub id, or a folder
    base_fingerprint: str
    adapters: tuple[AdapterRef, ...] = ()
    head: Head = "causal_lm"
    revision: str | None = None

    @classmethod
    def of_base(cls, model: str | Path) -> ModelRef:
        """The untrained model; finds it on this machine (see `find_base`)."""
        base = find_base(model)
        name = base.name if not Path(base.name).exists() else str(base.folder)
        return cls(name, base.fingerprint, head=base.head, revision=base.revision)

    @property
    def fingerprint(self) -> str:
        """Names the weights that `load` gives: base and, in order, every adapter's content."""
        if not self.adapters:
            return self.base_fingerprint
        return digest_of([self.base_fingerprint, [[a.digest, a.merge_onto] for a in self.adapters]])

    def with_adapter(self, adapter: AdapterRef, head: Head = "causal_lm") -> ModelRef:
        """This model and one adapter more.

        Raises WrongBaseError when the adapter was trained on another model.
        """
        if adapter.base_fingerprint != self.fingerprint:
            raise WrongBaseError(
                f"The adapter {adapter.folder} was trained on the model {adapter.base_fingerprint[:12]} and would be "
                f"put on {self.fingerprint[:12]}; load it on its own base."
            )
        return replace(self, adapters=(*self.adapters, adapter), head=head)

    def without_last_adapter(self) -> ModelRef:
        """The model that the last adapter stands on."""
        return replace(self, adapters=self.adapters[:-1], head=self.find().head)

    def find(self) -> Base:
        """The base on this machine.

        Raises WrongBaseError when its weights are not the ones that this recipe was made with.
        """
        base = find_base(self.base, self.revision)
        if base.fingerprint != self.base_fingerprint:
            raise WrongBaseError(
                f"The base {self.base} has the fingerprint {base.fingerprint[:12]}, and this model was made on "
                f"{self.base_fingerprint[:12]}: its weights or config changed. Restore them, or train anew."
            )
        return base

    def verify(self) -> None:
        """Check base and adapters against what was recorded, byte by byte, without torch."""
        self.find()
        stand = replace(self, adapters=())
        for adapter in self.adapters:
            adapter.verify()
            stand = stand.with_adapter(adapter)

    def load(self, *, dtype: Any = None, device: Any = None) -> tuple[Any, Any]:
        """(model, tokenizer) in evaluation mode, every adapter merged; a reward model or classifier comes with its
        trained head, and a classifier with the names of its classes in `model.config.id2label`.

        An adapter that cannot be merged (prompts, bottlenecks) stays a live, frozen PEFT adapter named "default".

        `dtype`: torch dtype; None is float32 on a CPU and bfloat16 on a GPU. `device`: None is the first GPU, else
        the CPU.
        """
        return self.load_model(dtype=dtype, device=device), load_tokenizer(self.find().folder)

    def load_model(self, *, dtype: Any = None, device: Any = None) -> Any:
        """The model of `load`, without its tokenizer."""
        with quiet_libraries():
            model = self.load_unmerged(dtype=dtype, device=device)
            merges = self.adapters and self.adapters[-1].mergeable
            return (merge(model) if merges else model).eval()

    def load_unmerged(self, *, dtype: Any = None, device: Any = None) -> Any:
        """The model of `load`, but the last adapter stays a live, frozen PEFT adapter named "default"."""
        self.verify()
        model = load_base(self.find(), dtype, device)
        for position, adapter in enumerate(self.adapters):
            last = position == len(self.adapters) - 1
            if adapter.merge_onto != "weights":
                from .quantization import dequantise, quantise

                model = dequantise(quantise(model, model.dtype, adapter.merge_onto), model.dtype)
            if last and self.head in TRAINED_HEADS:
                labels = None if self.head == "reward" else Labels.read(adapter.folder)
                model = with_head(model, self.head, labels)
            model = read_adapter(model, adapter.folder)
            if not last:
                model = merge(model)
        return model

    def as_dict(self, run_dir: Path) -> dict[str, Any]:
        """JSON form; folders inside `run_dir` are relative, so that the run folder can be moved."""
        return {
            "base": _relative(Path(self.base), run_dir) if os.path.isabs(self.base) else self.base,
            "base_fingerprint": self.base_fingerprint,
            "revision": self.revision,
            "head": self.head,
            "adapters": [
                {
                    "folder": _relative(a.folder, run_dir),
                    "digest": a.digest,
                    "base_fingerprint": a.base_fingerprint,
                    "merge_onto": a.merge_onto,
                }
                for a in self.adapters
            ],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], run_dir: Path) -> ModelRef:
        """The inverse of `as_dict`."""
        inside = value["base"].startswith("run:")
        return cls(
            base=str(_absolute(value["base"], run_dir)) if inside else value["base"],
            base_fingerprint=value["base_fingerprint"],
            revision=value["revision"],
            head=value["head"],
            adapters=tuple(
                AdapterRef(
                    _absolute(a["folder"], run_dir), a["digest"], a["base_fingerprint"], a["merge_onto"]
                )
                for a in value["adapters"]
            ),
        )


def load_base(base: Base, dtype: Any, device: Any) -> Any:
    """The model of a base, from safetensors only."""
    import torch

    from .packed_rows import pack_rows

    on_gpu = torch.cuda.is_available()
    device = device or ("cuda" if on_gpu else "cpu")
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    with code_refused(base.folder):
        model = auto_class(base.config).from_pretrained(
            base.folder, dtype=dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=trusts_remote_code(),
        )  # fmt: skip
    pack_rows(model)
    pad_token_id = shared_tokenizer(base.folder).pad_token_id
    model.config.get_text_config().pad_token_id = pad_token_id
    if model.can_generate():
        model.generation_config.pad_token_id = pad_token_id
    return model.to(device)


def with_reward_head(model: Any, seed: int = 0) -> Any:
    """A sequence-classification model of one score on the very same backbone: see `with_head`."""
    return with_head(model, "reward", None, seed)


def adapter_digest(folder: Path) -> str:
    """The digest that an AdapterRef of this committed folder must carry."""
    return digest_of_manifest(read_sealed(folder / MANIFEST))


def _relative(path: Path, run_dir: Path) -> str:
    return f"run:{path.relative_to(run_dir).as_posix()}" if path.is_relative_to(run_dir) else str(path)


def _absolute(text: str, run_dir: Path) -> Path:
    """A model may stand on adapters of another run, by their whole paths; `run:` is in this one."""
    return inside(run_dir, text.removeprefix("run:"), run_dir) if text.startswith("run:") else Path(text)
