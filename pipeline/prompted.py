"""PEFT's models with trained positions in front of every sequence, made right for padded batches.

# B rows, T tokens, P trained positions
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModelForCausalLM, PeftModelForSequenceClassification, set_peft_model_state_dict
from safetensors.torch import load_file

from .adapters import weights_of


class _Positions:
    """Padding between the trained positions and a row's first token moves no token.

    PEFT drops the position ids that `generate` makes of the attention mask, and counts the padding in.
    """

    peft_config: Any
    active_peft_config: Any

    def _adjust_prompt_learning_kwargs(
        self, peft_config: Any, *, kwargs: dict[str, Any], remove_token_type_ids: bool = True
    ) -> None:
        positions = kwargs.get("position_ids")
        if positions is not None:
            trained, cache = peft_config.num_virtual_tokens, kwargs.get("past_key_values")
            positions = positions + trained
            if not _is_prefix(peft_config) and (cache is None or not cache.get_seq_length()):
                first = torch.arange(trained, device=positions.device).expand(len(positions), -1)
                positions = torch.cat((first, positions), 1)
            kwargs["position_ids"] = positions
        if remove_token_type_ids:
            kwargs.pop("token_type_ids", None)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        """As PEFT's, where padding may also stand on the left."""
        padded = attention_mask is not None and not bool(attention_mask[:, 0].all())
        if padded and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)  # type: ignore[misc]


class PromptedForCausalLM(_Positions, PeftModelForCausalLM):
    """A language model behind trained positions; its logits may be (B, P + T, V)."""


class PromptedForSequenceClassification(_Positions, PeftModelForSequenceClassification):
    """A classifier behind trained positions.

    The transformer is given embeddings, of which it cannot tell the padding; it would read the score off the last
    place of the batch. So the padding goes to the left.
    """

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        if attention_mask is not None and not _is_prefix(self.active_peft_config):
            order_BT = attention_mask.argsort(dim=1, stable=True)
            input_ids, attention_mask = input_ids.gather(1, order_BT), attention_mask.gather(1, order_BT)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def prompted(model: Any, config: Any) -> Any:
    """The model with the trained positions of a PEFT config as its adapter "default"."""
    kinds = {"CAUSAL_LM": PromptedForCausalLM, "SEQ_CLS": PromptedForSequenceClassification}
    # Said of every classifier that is given embeddings, whatever its padding.
    logging.getLogger("transformers.modeling_layers").addFilter(_can_be_acted_on)
    return kinds[config.task_type](model, config)


def read_prompts(model: Any, config: Any, folder: Path, *, trainable: bool) -> Any:
    """The saved positions in front of the model; PEFT's own loader makes none that can be trained on."""
    config.inference_mode = not trainable
    found = prompted(model, config)
    set_peft_model_state_dict(found, load_file(weights_of(folder)))
    return found if trainable else found.requires_grad_(False)


def _can_be_acted_on(record: logging.LogRecord) -> bool:
    return "will not detect padding tokens" not in record.getMessage()


def _is_prefix(config: Any) -> bool:
    return bool(config.peft_type == "PREFIX_TUNING")
