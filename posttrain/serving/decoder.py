"""One forward pass for many answers: a model, its cache, and the masks that keep the rows apart.

# B rows, Q new tokens of each, L columns of the cache, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.pipeline.beginnings import in_common
from posttrain.pipeline.plain_lora import PlainLora

from .cache import SlotCache
from .mixed_lora import Adapters

BASE = ""  # of rows without an adapter
_FULL, _SLIDING = "full_attention", "sliding_attention"
_WORTH_A_COPY = 8  # tokens that a new row has in common with another


class Decoder:
    """Gives the logits behind each row's newest tokens. Rows are told apart by their slot alone.

    Raises ModelError for a model whose attention is no plain or sliding one, or that gives other logits here than
    without a cache.
    """

    def __init__(self, model: Any, cache_tokens: int) -> None:
        self._model, self._cache_tokens = model, cache_tokens
        self._adapters = Adapters(model)
        self._held: dict[int, tuple[str, list[int]]] = {}  # by slot: the adapter and the tokens in the cache
        config = model.config.get_text_config()
        self._layers, self._window = int(config.num_hidden_layers), config.to_dict().get("sliding_window")
        self._kinds = tuple(
            dict.fromkeys(config.to_dict().get("layer_types") or [_SLIDING if self._window else _FULL])
        )
        if not {*self._kinds} <= {_FULL, _SLIDING}:
            raise ModelError(
                f"The model has layers of the kind {', '.join({*self._kinds} - {_FULL, _SLIDING})}, and what is served here "
                "has full or sliding attention; serve it with vLLM."
            )
        self.reset()

    @property
    def device(self) -> Any:
        return self._model.device

    def add(self, name: str, lora: PlainLora) -> None:
        self._adapters.add(name, lora)

    def remove(self, name: str) -> None:
        self._adapters.remove(name)

    def reset(self) -> None:
        """Forget all rows."""
        self._cache = SlotCache(self._layers, self._cache_tokens)
        self._held.clear()

    def reserve(self, slots: int, columns: int) -> None:
        """Before so many rows of so many tokens are asked for."""
        with torch.inference_mode():
            slots, columns = self._cache.reserve(slots, columns)
        self._held = {at: (of, held[:columns]) for at, (of, held) in self._held.items() if at < slots}

    def move(self, source: int, target: int, length: int) -> None:
        with torch.inference_mode():
            self._cache.move(source, target, length)
        adapter, held = self._held[source]
        self._held[target] = adapter, held[:length]

    def recall(self, slot: int, tokens: Sequence[int], adapter: str) -> int:
        """Have in a free slot the beginning of `tokens` that this or another slot holds, of a row that may be gone.

        Returns its length, one short of all tokens at most: the last one must be asked for its logits.
        """
        found = {at: in_common(held, tokens[:-1]) for at, (of, held) in self._held.items() if of == adapter}
        best = max(found, key=lambda at: (found[at], at == slot), default=slot)
        length = found.get(best, 0)
        if length < _WORTH_A_COPY:
            return 0
        if best != slot:
            self.move(best, slot, length)
        return length

    def logits(
        self, first: int, tokens: Sequence[Sequence[int]], lengths: Sequence[int], adapters: Sequence[str]
    ) -> Tensor:
        """(B, V) behind the last token of each row. first: the slot of the first row; lengths: tokens it already has."""
        most = max(map(len, tokens))
        # Shorter rows are filled up on the left. What fills them is written behind the row's end, where no token of
        # the row looks, and is written over later.
        ids = [[0] * (most - len(new)) + list(new) for new in tokens]
        columns = [
            [*range(length + len(new), length + most), *range(length, length + len(new))]
            for new, length in zip(tokens, lengths, strict=True)
        ]
        columns_BQ = torch.tensor(columns, device=self.device)
        width = max(lengths) + most
        self._cache.aim(first, columns_BQ, width)
        self._adapters.aim(adapters)
        for slot, (new, length, adapter) in enumerate(zip(tokens, lengths, adapters, strict=True), first):
            _, held = self._held.get(slot, ("", []))
            del held[length:]
            self._held[slot] = adapter, held
            held += new
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor(ids, device=self.device), position_ids=columns_BQ,
                attention_mask=self._masks(columns_BQ, width), past_key_values=self._cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
        return out.logits[:, -1].float()

    def _masks(self, columns_BQ: Tensor, width: int) -> Tensor | Mapping[str, Tensor]:
        """Added to the attention scores; one for each kind of layer, where there are several."""
        behind_BQL = columns_BQ[:, :, None] - torch.arange(width, device=self.device)
        seen = {_FULL: behind_BQL >= 0}
        if self._window:
            seen[_SLIDING] = seen[_FULL] & (behind_BQL < self._window)
        dtype = self._model.dtype
        masks = {
            kind: torch.zeros_like(seen[kind], dtype=dtype).masked_fill_(~seen[kind], torch.finfo(dtype).min)[
                :, None
            ]
            for kind in self._kinds
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def prove(self) -> None:
        """Raises ModelError unless two rows of different length, with the cache, get the logits of the plain model."""
        texts = [[5, 9, 3, 7, 11, 4], [8, 6, 10]]
        self.reserve(len(texts), max(map(len, texts)))
        try:
            self.logits(0, [text[:-1] for text in texts], [0, 0], [BASE, BASE])
            lengths = [len(text) - 1 for text in texts]
            served = self.logits(0, [text[-1:] for text in texts], lengths, [BASE, BASE])
        except Exception as error:  # whatever a model's code makes of a cache that it does not know
            raise ModelError(
                f"The model cannot work with the cache of the server ({type(error).__name__}: {error}); serve it with vLLM."
            ) from error
        self.reset()
        with torch.inference_mode():
            plain = [
                self._model(input_ids=torch.tensor([text], device=self.device)).logits[0, -1].float()
                for text in texts
            ]
        off = max(float((a - b).abs().max()) for a, b in zip(served, plain, strict=True))
        scale = max(float(one.abs().max()) for one in plain)
        if not off <= scale * (1e-3 if self._model.dtype == torch.float32 else 5e-2):
            raise ModelError(
                f"The model gives other logits with the cache of the server than without one (they differ by {off:.2g}, and "
                f"the largest is {scale:.2g}); serve it with vLLM."
            )
