"""One frozen base, four roles: policy, reference, reward model and critic, told apart by the adapter that is active.

# B answers, L tokens of the longest prompt and answer, T tokens of the longest answer, H hidden size
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .log_probs import answer_log_probs, backbone

Role = Literal["policy", "reference", "reward", "critic"]
REFERENCE = "ref"  # the frozen copy of an adapter that is trained on; TRL's trainers look for it by this name
_OTHERS = (REFERENCE, "reward", "critic")  # adapters that are not the policy's


@dataclass(frozen=True)
class Batch:
    """Prompts and answers of some rows, padded on the right."""

    ids_BL: Tensor
    attention_BL: Tensor
    prompt_B: Tensor  # tokens of each prompt
    answer_B: Tensor  # tokens of each answer

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int, device: Any
    ) -> Batch:
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        width = max(map(len, rows))
        return cls(
            torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device),
            torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device),
            torch.tensor([len(prompt) for prompt in prompts], device=device),
            torch.tensor([len(answer) for answer in answers], device=device),
        )

    @cached_property
    def mask_BT(self) -> Tensor:
        """1.0 on the tokens of the answers."""
        width = int(self.answer_B.max())
        return (torch.arange(width, device=self.answer_B.device) < self.answer_B[:, None]).float()

    @cached_property
    def _places_BT(self) -> Tensor:
        """Where each answer token stands; behind a shorter answer, its last place again."""
        last_B = self.prompt_B + self.answer_B - 1
        places_BT = (
            self.prompt_B[:, None] + torch.arange(self.mask_BT.shape[1], device=self.ids_BL.device)[None]
        )
        return torch.minimum(places_BT, last_B[:, None])

    @property
    def targets_BT(self) -> Tensor:
        return self.ids_BL.gather(1, self._places_BT)

    def before_answers(self, hidden_BLH: Tensor) -> Tensor:
        """(B, T, H): the states that predict each answer token."""
        return _pick(hidden_BLH, self._places_BT - 1)

    def at_end(self, hidden_BLH: Tensor) -> Tensor:
        """(B, H): the states at the last real token."""
        return _pick(hidden_BLH, (self.prompt_B + self.answer_B - 1)[:, None])[:, 0]


def _pick(hidden_BLH: Tensor, places_BT: Tensor) -> Tensor:
    return hidden_BLH.gather(1, places_BT[..., None].expand(-1, -1, hidden_BLH.shape[-1]))


class Roles:
    """The models of an online stage. PPO has dropout off in all of them: a ratio of 1 means an unchanged policy.

    policy: the trained model; a PEFT model whose adapter "default" is trained, or a whole model.
    trunk: the PEFT model that carries the frozen roles' adapters: the policy itself, or, where the policy is a whole
    model, a frozen copy of it as it was.
    below: adapters under every role but the policy's: the policy as it started, where it goes on training one.
    """

    def __init__(self, policy: Any, trunk: Any, *, below: Sequence[str], critic_is_shared: bool) -> None:
        self.policy, self.trunk = policy.eval(), trunk.eval()
        self._below = tuple(below)
        self.critic_is_shared = critic_is_shared
        self.value_head: nn.Linear | None = None
        self.score_head: nn.Linear | None = None
        self._trained: list[nn.Parameter] = []
        self._recomputes = False
        self._active: Role = "policy"

    def add_value_head(self) -> None:
        """A linear head (H -> 1) that says 0 of everything."""
        hidden = self.policy.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden, 1, bias=False, dtype=torch.float32, device=self.policy.device)
        nn.init.zeros_(self.value_head.weight)

    def freeze_all_but_trained(self) -> None:
        """Say what is trained: the policy's parameters and, of the critic, its adapter and head."""
        self.policy_parameters = [
            p for n, p in self.policy.named_parameters() if _is_policy(n) and p.requires_grad
        ]
        own = [p for n, p in self.trunk.named_parameters() if is_of(n, "critic")]
        self.critic_parameters = own if self.value_head is None else [*own, self.value_head.weight]
        for parameter in (*self.policy.parameters(), *self.trunk.parameters()):
            parameter.requires_grad_(False)
        self._trained = [*self.policy_parameters, *self.critic_parameters]
        for parameter in self._trained:
            parameter.requires_grad_(True)

    @contextlib.contextmanager
    def as_role(self, role: Role) -> Iterator[Any]:
        """The model with the adapters of a role active; the policy's are active again behind it.

        A backward pass through recomputed layers must end inside: they are computed with what is active then.
        """
        if role == "policy" or (role == "critic" and self.critic_is_shared):
            yield self.policy
        elif role == self._active:  # inside itself
            yield self.trunk
        else:
            names = [*self._below, *((role,) if role != "reference" else ())]
            self._active = role
            try:
                with _active(self.trunk, names):
                    self._restore_gradients()
                    yield self.trunk
            finally:
                self._active = "policy"
                if hasattr(self.trunk, "peft_config"):  # on a carrier the adapter "default" changes nothing
                    self.trunk.base_model.set_adapter(["default"])
                self._restore_gradients()

    def log_probs(
        self, batch: Batch, role: Role, temperature: float, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) of the answers' tokens, both (B, T) in nats, 0 behind the answers."""
        with self.as_role(role) as model:
            states_BTH = batch.before_answers(self._hidden(model, batch))
            return self._log_probs_of(model, states_BTH, batch, temperature, entropy_gradient)

    def values(self, batch: Batch) -> Tensor:
        """(B, T): what the critic expects from before each answer token on."""
        with self.as_role("critic") as model:
            return self._values_of(batch.before_answers(self._hidden(model, batch)), batch)

    def log_probs_and_values(
        self, batch: Batch, temperature: float, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probabilities, entropies, values) of policy and critic; in one pass where they share the trunk."""
        if not self.critic_is_shared:
            found = self.log_probs(batch, "policy", temperature, entropy_gradient=entropy_gradient)
            return *found, self.values(batch)
        states_BTH = batch.before_answers(self._hidden(self.policy, batch))
        found = self._log_probs_of(self.policy, states_BTH, batch, temperature, entropy_gradient)
        return *found, self._values_of(states_BTH, batch)

    def _log_probs_of(
        self, model: Any, states_BTH: Tensor, batch: Batch, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        at = batch.mask_BT > 0
        log_probs_N, entropies_N = answer_log_probs(
            model, states_BTH[at], batch.targets_BT[at], temperature, entropy_gradient=entropy_gradient
        )
        zeros = torch.zeros_like(batch.mask_BT)
        return zeros.masked_scatter(at, log_probs_N), zeros.masked_scatter(at, entropies_N)

    def _values_of(self, states_BTH: Tensor, batch: Batch) -> Tensor:
        assert self.value_head is not None
        values_BT: Tensor = self.value_head(states_BTH.float())[..., 0] * batch.mask_BT
        return values_BT

    def scores(self, batch: Batch) -> Tensor:
        """(B,): the reward model's score, read at the last real token."""
        assert self.score_head is not None
        with torch.no_grad(), self.as_role("reward") as model:
            states_BH = batch.at_end(self._hidden(model, batch))
            return self.score_head(states_BH.to(self.score_head.weight.dtype))[:, 0].float()

    def copies_of_the_base(self) -> int:
        """How many copies of the backbone's weights are in memory."""
        embeddings = {backbone(m).get_input_embeddings().weight.data_ptr() for m in (self.policy, self.trunk)}
        return len(embeddings)

    def recompute_activations(self) -> None:
        """From now on keep the inputs of layers alone for the backward pass, and compute the rest again in it."""
        for model in {id(m): m for m in (self.policy, self.trunk)}.values():
            backbone(model).activation_checkpointing_enable({"use_reentrant": False})
        self._recomputes = True

    def _hidden(self, model: Any, batch: Batch) -> Tensor:
        return self.states(model, batch.ids_BL, batch.attention_BL)

    def states(self, model: Any, ids_BL: Tensor, attention_BL: Tensor) -> Tensor:
        """(B, L, H): last hidden states of a model whose adapters are active."""
        with _recomputing(backbone(model)) if self._recomputes else contextlib.nullcontext():
            out = backbone(model)(input_ids=ids_BL, attention_mask=attention_BL, use_cache=False)
        states_BLH: Tensor = out.last_hidden_state
        return states_BLH

    def _restore_gradients(self) -> None:
        """PEFT makes what it activates trainable and freezes the rest; the optimizer's parameters stay as they were."""
        for parameter in self.trunk.parameters():
            parameter.requires_grad_(False)
        for parameter in self._trained:
            parameter.requires_grad_(True)


def _is_policy(name: str) -> bool:
    return not any(is_of(name, role) for role in _OTHERS)


def is_of(parameter: str, adapter: str) -> bool:
    """Whether a parameter, by its name, belongs to an adapter: "...lora_A.critic.weight", "...ia3_l.critic"."""
    return f".{adapter}." in parameter or parameter.endswith(f".{adapter}")


@contextlib.contextmanager
def _recomputing(model: Any) -> Iterator[None]:
    """Layers recompute only while they are "training"; what is in them (dropout) must not be."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = torch.is_grad_enabled()
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


@contextlib.contextmanager
def _active(model: Any, adapters: Sequence[str]) -> Iterator[None]:
    """These adapters and no others; none at all gives the bare base."""
    if adapters:
        model.base_model.set_adapter(list(adapters))
        yield
    elif hasattr(model, "peft_config"):
        with model.disable_adapter():
            yield
    else:
        yield
