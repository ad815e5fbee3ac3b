"""Prompts that are trained instead of written: vectors in front of every sequence, on a model that stays as it is.

# P trained positions, H hidden size
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from posttrain.errors import StrategyError

from ...pipeline.settings import check_choice, check_number, refuse
from .strategy import Capabilities, Schedule, StartRows, StepHooks, Strategy, Task
from .tuner import TASK_TYPES

if TYPE_CHECKING:
    from torch import Tensor

_ENCODER = "prompt_encoder.safetensors"


@dataclass(frozen=True)
class _Prompts(Strategy):
    """What the three share. The reference of DPO and KTO is the model with the prompt as it starts: without it, the
    policy would not start as its reference.
    """

    tokens: int = 20

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=False, continuable=True, identity_at_start=False, several_at_once=False, reference_copy=True,
        online=False, shardable=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if self.tokens is None:
            refuse(owner, "tokens", None, "a whole number at least 1")
        check_number(owner, "tokens", self.tokens, least=1, whole=True)

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    @abstractmethod
    def config(self, common: Mapping[str, Any]) -> Any:
        """The PEFT config. common: task_type and num_virtual_tokens."""

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        from transformers import set_seed

        if task not in ("policy", "reward"):
            raise StrategyError(
                f"{type(self).__name__} is for language models and reward models; take LoRA() or IA3() for classifiers, "
                "taggers and sequence-to-sequence models."
            )
        from ...pipeline.prompted import prompted

        set_seed(seed)
        return prompted(
            model, self.config({"task_type": TASK_TYPES[task], "num_virtual_tokens": self.tokens})
        )


@dataclass(frozen=True)
class _TextPrompts(_Prompts):
    """text: what the prompt starts from; None draws tokens from the vocabulary."""

    text: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None and (not isinstance(self.text, str) or not self.text.strip()):
            refuse(
                type(self).__name__, "text", self.text, "a text, or None for tokens drawn from the vocabulary"
            )

    def wrap(self, model: Any, task: Task, seed: int) -> Any:
        if self.text is not None:  # said by plan(), before any weights are read
            self._text_ids(model)
        return super().wrap(model, task, seed)

    def _start_ids(self, model: Any) -> Tensor:
        """(P,): the text's tokens, again from the first where they are fewer; or drawn from the vocabulary."""
        import torch

        if self.text is None:
            return torch.randint(model.get_input_embeddings().num_embeddings, (self.tokens,)).to(model.device)
        ids = self._text_ids(model)
        return torch.tensor((ids * self.tokens)[: self.tokens], device=model.device)

    def _text_ids(self, model: Any) -> list[int]:
        from ...pipeline.base_models import shared_tokenizer

        tokenizer = shared_tokenizer(Path(model.name_or_path))
        ids: list[int] = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.tokens:
            owner = type(self).__name__
            raise StrategyError(
                f"{owner}(tokens={self.tokens}): the text has {len(ids)} tokens, so its end would be lost; set "
                f"tokens={len(ids)}, or shorten it."
            )
        return ids


@dataclass(frozen=True)
class PromptTuning(_TextPrompts):
    """`tokens` trained embeddings in front of every sequence (Lester et al., arXiv 2104.08691).

    tokens: usually 5 to 100. text: what the embeddings start as, such as the task in words; None starts them as tokens
    drawn from the vocabulary. A few thousand parameters; comes near full tuning on large models (10 B) only, and is
    slow to learn on small ones. Never merges, takes `tokens` of the context, and many tasks can be served on one base.
    Usual learning rates: 3e-3 to 3e-1.
    """

    learning_rate_factor: ClassVar[float] = 1000.0

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import PromptTuningConfig

        return PromptTuningConfig(**common)

    def start(self, model: Any, rows: StartRows | None) -> None:
        import torch

        with torch.no_grad():
            embedded_PH = model.get_input_embeddings()(self._start_ids(model))
            model.prompt_encoder["default"].embedding.weight.copy_(embedded_PH)


@dataclass(frozen=True)
class PrefixTuning(_TextPrompts):
    """Trained keys and values of `tokens` positions in front of every layer's own (Li & Liang, arXiv 2101.00190).

    tokens: usually 10 to 200. They start as what the model makes of `text`, or of tokens drawn from the vocabulary:
    real activations learn far faster than random ones (section 7.4 of the paper), and need no encoder around them.
    2 * layers * key width parameters for each token, some 0.1 % of a model; stronger than PromptTuning on small models.
    Never merges. Activations cannot be computed again, so gradient checkpointing is off. Usual learning rates: 1e-3 to
    1e-2.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        mergeable=False, continuable=True, identity_at_start=False, several_at_once=False, reference_copy=True,
        online=False, checkpointable=False, shardable=False,
    )  # fmt: skip
    learning_rate_factor: ClassVar[float] = 200.0

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(**common)

    def start(self, model: Any, rows: StartRows | None) -> None:
        import torch

        base, weight = model.get_base_model(), model.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            ids = self._start_ids(model)[None]
            cache = getattr(base, base.base_model_prefix)(input_ids=ids, use_cache=True).past_key_values
            pairs = [layer_kv for layer in cache.layers for layer_kv in (layer.keys[0], layer.values[0])]
            if sum(kv.numel() for kv in pairs) != weight.numel() or len({kv.shape for kv in pairs}) != 1:
                raise StrategyError(
                    f"PrefixTuning: the layers of {type(base).__name__} keep keys and values of different shapes; take "
                    "PromptTuning there."
                )
            # PEFT reads a row as: layer by layer, the keys of all heads and then the values.
            weight.copy_(torch.stack(pairs).permute(2, 0, 1, 3).reshape(weight.shape))


@dataclass(frozen=True)
class PTuning(_Prompts):
    """`tokens` trained embeddings that a small network makes while training (Liu et al., arXiv 2103.10385).

    tokens: usually 10 to 100. encoder: "mlp", or "lstm" as in the paper, over the prompt in both directions.
    hidden: its width; None takes the model's. The network makes training steadier than PromptTuning's bare embeddings;
    what is used afterwards is the embeddings alone, and the network stays beside them for handover="continue".
    Never merges, takes `tokens` of the context. Usual learning rates: 1e-4 to 1e-2.
    """

    hidden: int | None = None
    encoder: Literal["mlp", "lstm"] = "mlp"

    learning_rate_factor: ClassVar[float] = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("PTuning", "hidden", self.hidden, least=1, whole=True)
        check_choice("PTuning", "encoder", self.encoder, ("mlp", "lstm"))

    def config(self, common: Mapping[str, Any]) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            encoder_reparameterization_type=self.encoder.upper(), encoder_hidden_size=self.hidden, **common
        )

    def hooks(self, model: Any, schedule: Schedule) -> StepHooks:
        return _EncoderHooks(model)

    def read_back(self, model: Any, folder: Path) -> Any:
        from safetensors.torch import load_file

        found = super().read_back(model, folder)
        found.prompt_encoder["default"].load_state_dict(load_file(folder / _ENCODER))
        return found


class _EncoderHooks(StepHooks):
    """PEFT saves the embeddings that the encoder gives, and reads them back as if they were what it is given."""

    def __init__(self, model: Any) -> None:
        self._encoders = model.prompt_encoder  # of the policy, and of its reference where there is one
        self._read: Mapping[str, Tensor] = {}

    def state(self) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self._encoders.state_dict()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._read = state

    def begin(self, step: int) -> None:
        if self._read:
            self._encoders.load_state_dict(self._read)

    def finish(self, folder: Path) -> None:
        from safetensors.torch import save_file

        state = self._encoders["default"].state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, folder / _ENCODER)
