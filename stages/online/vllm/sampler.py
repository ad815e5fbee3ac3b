"""The sampler that lets vLLM answer as the policy is now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import SamplerError

from ....pipeline import ModelRef, StageContext
from ....pipeline.digests import digest_of, sha256_of
from ....pipeline.durable import commit_folder, write_json
from ...handover import stands_on
from ..sampling import Answer, cut, stop_ids
from .colocated import ColocatedEngine
from .engine import Adapter, Engine, Limits, Said
from .server import Server

if TYPE_CHECKING:
    from ....pipeline import Ranks
    from ..stage import OnlineStage
    from .settings import VLLM


class VLLMSampler:
    """Writes the policy's adapter down whenever it has moved, and has vLLM answer with that one."""

    def __init__(self, engine: Engine, policy: Any, folder: Path, limits: Limits, ranks: Ranks) -> None:
        self._engine, self._policy, self._folder = engine, policy, folder
        self._limits, self._ranks = limits, ranks
        self._adapter: Adapter | None = None
        if ranks.main:
            shutil.rmtree(folder, ignore_errors=True)
        self.copies_of_the_base = engine.copies_of_the_base

    def sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Answer]:
        self._adapter = self._ranks.share(self._newest() if self._ranks.main else None)
        assert self._adapter is not None
        said = self._engine.answer(self._adapter, prompts, seeds, self._limits)
        if len(said) != len(prompts):
            raise SamplerError(f"vLLM gave {len(said)} answers to {len(prompts)} prompts.")
        return [self._answer(one) for one in said]

    def _newest(self) -> Adapter:
        """The policy as it is, loaded into the engine; the one before it is dropped."""
        last, adapter = self._adapter, _written(self._policy, self._folder)
        if last is None or last.name != adapter.name:
            self._engine.load(adapter)
            if last is not None:
                self._engine.unload(last)
                shutil.rmtree(last.folder, ignore_errors=True)
        return adapter

    def _answer(self, said: Said) -> Answer:
        answer = cut(said.ids, self._limits.stop_ids)
        whole = answer.stopped or len(said.ids) == self._limits.max_new_tokens
        if len(answer.ids) != len(said.ids) or not whole:
            raise SamplerError(
                f"vLLM ended an answer after {len(said.ids)} of {self._limits.max_new_tokens} tokens for another reason than "
                f"the policy's stop tokens ({said.reason}); its --max-model-len must hold max_length tokens, and "
                "--generation-config must be vllm."
            )
        complete = len(said.log_probs) == len(said.ids) and None not in said.log_probs
        return Answer(answer.ids, answer.stopped, said.log_probs if complete else None)


def open_sampler(
    settings: VLLM, stage: OnlineStage, context: StageContext, policy: Any, tokenizer: Any
) -> VLLMSampler:
    """Raises SamplerError when vLLM is not there, or would answer from another model than the policy's."""
    source = stands_on(stage, context.inputs["policy"])
    base = _folder_of(source, policy.dtype, tokenizer, context)
    limits = Limits(stop_ids(policy, tokenizer), stage.max_new_tokens, stage.temperature)
    rank: int = policy.peft_config["default"].r
    engine: Engine
    if settings.url is None:
        engine = ColocatedEngine(
            base, dtype=str(policy.dtype).removeprefix("torch."), rank=rank, max_length=stage.max_length,
            gpu_memory=settings.gpu_memory, seed=context.seed,
        )  # fmt: skip
    else:
        engine = server = Server(
            settings.url, base, rank=rank, max_length=stage.max_length, timeout_s=settings.timeout_s
        )
        server.check(source)
    return VLLMSampler(engine, policy, context.folder / "sampler", limits, context.ranks)


def _folder_of(source: ModelRef, dtype: Any, tokenizer: Any, context: StageContext) -> Path:
    """A folder with the model below the policy's adapter: the base's own, or one with earlier adapters merged in."""
    if not source.adapters:
        return source.find().folder
    folder = context.folder / f"base-{source.fingerprint[:12]}"

    def fill(aside: Path) -> None:
        source.load_model(dtype=dtype, device="cpu").save_pretrained(aside)
        tokenizer.save_pretrained(aside)

    if context.ranks.main and not folder.is_dir():
        context.events.phase("writing the merged base for vLLM")
        commit_folder(folder, fill, {"fingerprint": source.fingerprint})
    context.ranks.barrier()
    return folder


def _written(policy: Any, folder: Path) -> Adapter:
    """The policy's adapter in a folder that is named after its content."""
    aside = folder / "new"
    shutil.rmtree(aside, ignore_errors=True)
    policy.save_pretrained(aside, selected_adapters=["default"])
    config = json.loads((aside / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = None  # vLLM has it already; a path or a name would be looked up
    write_json(aside / "adapter_config.json", config)
    content = sha256_of(aside / "adapter_model.safetensors")
    # Two runs on one server must not take each other's adapter away.
    name = f"posttrain-{digest_of([content, str(folder)])[:16]}"
    target = folder / name
    if target.is_dir():
        shutil.rmtree(aside)
    else:
        aside.rename(target)
    return Adapter(name, target.absolute())
