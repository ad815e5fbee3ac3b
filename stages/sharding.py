"""A model that is divided over the ranks while it trains, by torch's `fully_shard` (FSDP 2), and whole before and after.

accelerate would divide it, too, but on GPUs alone, without autocast, with checkpoints of a kind of their own, and with the
head, which TRL's fused loss reads without calling it, in one group with the last norm. So the Trainer is told of data
parallel, and given a model that needs no DDP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..pipeline.engine import Sharding

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # the Trainer's own names


class Sharded:
    """From here on each rank holds a part of every parameter of the model, and a layer's whole ones while it computes."""

    def __init__(self, model: nn.Module, sharding: Sharding, *, autocast: bool = False) -> None:
        from peft import PeftModel
        from torch.distributed import broadcast, get_world_size
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # Of float32 weights that are trained, autocast would keep whole copies in 16 bits for the backward pass: so
        # layers are gathered in 16 bits. Adapters stay as they are; their base has 16 bits already.
        trained = autocast and not isinstance(model, PeftModel)
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if trained else None,
            reduce_dtype=torch.float32 if trained else None,
            cast_forward_inputs=False,
        )
        # As DDP begins: a start that each rank computed may differ in the last bit.
        for tensor in (*model.parameters(), *model.buffers()):
            broadcast(tensor.data, src=0)
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        common: dict[str, Any] = {"mesh": init_device_mesh(kind, (get_world_size(),)), "mp_policy": precision}
        self._model = model
        self._modules = [(module, type(module), _contents(module)) for module in model.modules()]
        self._whole = dict(model.named_parameters())
        for layer in _layers(model):
            fully_shard(layer, reshard_after_forward=sharding.reshard, **common)
        # What is left, embeddings and head among it, is whole from a forward pass to the end of its backward pass.
        fully_shard(model, mesh=common["mesh"])
        for parameter in self._whole.values():
            parameter.data = parameter.data.new_empty(0)

    def gather(self) -> None:
        """The model as it was, modules and parameters the same objects, with the weights that it has now. By all ranks."""
        from torch.distributed.fsdp import FSDPModule

        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, parameter in self._model.named_parameters():
            self._whole[name].data = _whole(parameter)
        for module, kind, contents in self._modules:
            module.__class__ = kind
            _restore(module, contents)


class OnShards:
    """A Trainer whose model is divided from the moment that its optimizer is made. Its checkpoints are those of one
    process: whole, and gone on from with any engine.
    """

    sharding: Sharding
    _sharded: Sharded | None = None

    def create_optimizer(self, model: Any = None) -> Any:
        trained = self.model  # type: ignore[attr-defined]
        self._sharded = Sharded(trained, self.sharding, autocast=self.args.bf16)  # type: ignore[attr-defined]
        _keep_ddp_away(self.accelerator, trained)  # type: ignore[attr-defined]
        return super().create_optimizer(model)  # type: ignore[misc]

    def train(self, *args: Any, **settings: Any) -> Any:
        result = super().train(*args, **settings)  # type: ignore[misc]
        if self._sharded is not None:
            self._sharded.gather()
            self._sharded = None
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        writes = self.args.should_save  # type: ignore[attr-defined]
        whole: dict[int, Any] = {}  # by parameter: tied ones are one tensor here, too
        state = {}
        for name, value in _saved(self.model).items():  # type: ignore[attr-defined]
            if id(value) not in whole:
                whole[id(value)] = _kept(value, writes)
            state[name] = whole[id(value)]
        self._save(output_dir, state_dict=state)  # type: ignore[attr-defined]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        writes = self.args.should_save  # type: ignore[attr-defined]
        found = self.optimizer.state_dict()  # type: ignore[attr-defined]
        state = {
            number: {name: _kept(value, writes) for name, value in values.items()}
            for number, values in found["state"].items()
        }
        if writes:
            torch.save({**found, "state": state}, Path(output_dir) / _OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)  # type: ignore[attr-defined]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # Mapped, so that what the ranks of a machine read is in its memory once.
        found = torch.load(Path(checkpoint) / _OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        groups = self.optimizer.param_groups  # type: ignore[attr-defined]
        parameters = [parameter for group in groups for parameter in group["params"]]
        state = {
            number: {name: _part(value, parameters[number]) for name, value in values.items()}
            for number, values in found["state"].items()
        }
        self.optimizer.load_state_dict({**found, "state": state})  # type: ignore[attr-defined]
        schedule = torch.load(Path(checkpoint) / _SCHEDULER, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[attr-defined]


@contextmanager
def seen_as_data_parallel() -> Iterator[None]:
    """A Trainer that is made here asks accelerate for no FSDP of its own."""
    asked = os.environ.get("ACCELERATE_USE_FSDP")
    if asked is not None:
        os.environ["ACCELERATE_USE_FSDP"] = "false"
    try:
        yield
    finally:
        if asked is not None:
            os.environ["ACCELERATE_USE_FSDP"] = asked


def local(parameter: Any) -> Any:
    """The values of a parameter that this rank holds."""
    from torch.distributed.tensor import DTensor

    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _keep_ddp_away(accelerator: Any, model: nn.Module) -> None:
    """Its `prepare` gives the model its autocast and nothing else; gradients are averaged as they are divided."""
    prepare = accelerator.prepare

    def prepare_rest(*given: Any, **settings: Any) -> Any:
        found = [
            accelerator.prepare_model(one, device_placement=False, evaluation_mode=True)
            if one is model
            else prepare(one, **settings)
            for one in given
        ]
        return found[0] if len(found) == 1 else tuple(found)

    accelerator.prepare = prepare_rest


def _layers(model: Any) -> list[nn.Module]:
    """The layers of its stacks, as transformers names their classes; none where it names none."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(base._no_split_modules or ())
    stacks = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return [layer for stack in stacks for layer in stack if type(layer).__name__ in kinds]


def _contents(module: nn.Module) -> Mapping[str, tuple[Any, Any]]:
    """What the module has, and of its tables (parameters, hooks ...) what is in them, by name."""
    return {
        name: (value, value.copy() if isinstance(value, (dict, set)) else None)
        for name, value in vars(module).items()
    }


def _restore(module: nn.Module, contents: Mapping[str, tuple[Any, Any]]) -> None:
    vars(module).clear()
    for name, (value, inside) in contents.items():
        if inside is not None:  # the same table, since handles of hooks point to it
            value.clear()
            value.update(inside)
        vars(module)[name] = value


def _saved(model: Any) -> Mapping[str, Any]:
    """What of a model's state goes into a checkpoint: of a PEFT model what PEFT takes, for its base is never put together."""
    from peft import PeftModel, get_peft_model_state_dict

    state: Mapping[str, Any] = model.state_dict(keep_vars=True)
    if not isinstance(model, PeftModel):
        return state
    taken = {
        id(value)
        for adapter in model.peft_config
        for value in get_peft_model_state_dict(model, state, adapter).values()
    }
    found = {name: value for name, value in state.items() if id(value) in taken}
    # Should PEFT compute something of the state, it is given all of it.
    return found if len({id(value) for value in found.values()}) == len(taken) else state


def _whole(value: Any) -> Any:
    """All parts of a tensor together, without its gradient. By all ranks."""
    from torch.distributed.tensor import DTensor

    plain = value.detach()
    return plain.full_tensor() if isinstance(plain, DTensor) else plain


def _kept(value: Any, here: bool) -> Any:
    """A whole tensor in the memory of the machine where it is kept `here`; what is no tensor as it is. By all ranks."""
    if not isinstance(value, torch.Tensor):
        return value
    whole = _whole(value)
    return whole.cpu() if here else None


def _part(value: Any, parameter: Any) -> Any:
    """This rank's part of a whole tensor that belongs to a parameter; numbers such as steps are everywhere the same."""
    from torch.distributed.tensor import DTensor

    if (
        not isinstance(parameter, DTensor)
        or not isinstance(value, torch.Tensor)
        or value.shape != parameter.shape
    ):
        return value
    mesh = parameter.device_mesh
    # As `fully_shard` divides it: by rows, the first ranks have the larger parts.
    parts = value.chunk(mesh.size())
    rank = mesh.get_local_rank()
    own = parts[rank] if rank < len(parts) else value[:0]
    return DTensor.from_local(
        own.to(parameter.device).clone(), mesh, parameter.placements, run_check=False,
        shape=value.shape, stride=value.stride(),
    )  # fmt: skip
