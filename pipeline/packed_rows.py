"""Batches without their padding, and what several rows begin with computed once: exact, below any trainer.

A decoder that `pack_rows` was told of takes a batch padded on the right as before and gives back the states it would give;
in between, its layers see one row of the N tokens that differ. Attention goes row by row: the tokens of a row that are its
own look at themselves and at the tokens it shares with an earlier row, and at nothing else. So a prompt is paid for once
where it stands before a chosen and a rejected answer, or a system prompt before every row of a batch.

# B rows, L tokens of the longest, N tokens that differ, H hidden size
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .beginnings import SHORTEST_SHARED, in_common

ATTENTION = "posttrain_rows"
KEYS_AT_ONCE = 512  # of torch's kernel, which leaves out blocks of them behind a token, and none under a mask
_keeps_padding = ContextVar("keeps_padding", default=False)
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_router_logits")  # that come row by row
_INPUTS = ("position_ids", "past_key_values", "inputs_embeds")


@dataclass(frozen=True)
class Own:
    """The tokens of a row that no earlier row has: where they stand in the packed row, and all that they look at."""

    begin: int
    end: int
    seen: tuple[tuple[int, int], ...]  # ranges of places, in the row's order; the last is (begin, end)

    @cached_property
    def shared(self) -> int:
        """The tokens it looks at that an earlier row has."""
        return sum(end - begin for begin, end in self.seen[:-1])

    def attends_whole(self, window: int | None) -> bool:
        """Whether it costs less to attend from the shared tokens once more, causally, than from its own under a mask."""
        seen = self.shared + self.end - self.begin
        return 0 < self.shared < seen - self.shared - KEYS_AT_ONCE and (window is None or seen <= window)

    def mask(self, window: int | None, device: Any) -> Tensor | None:
        """(own, seen) true where a token looks; None where causal attention over itself says the same."""
        own = self.end - self.begin
        seen = self.shared + own
        windowed = window is not None and seen > window
        if not windowed and (len(self.seen) == 1 or own == 1):
            return None
        at, of = torch.arange(seen - own, seen, device=device)[:, None], torch.arange(seen, device=device)
        looks = of <= at
        return looks & (of > at - window) if windowed and window is not None else looks


@dataclass
class Packing:
    """One batch, packed."""

    rows: tuple[Own, ...]
    ids_1N: Tensor
    positions_1N: Tensor
    places_BL: Tensor  # of each token of the batch; padding points at the first
    layers: int = 0  # that attended row by row
    _masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    @cached_property
    def pieces(self) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
        """The packed row, cut wherever a range of a row begins or ends: the widths, and for each row the numbers of the
        pieces that it shares and that are its own.

        Tensors are split so once; a slice for each row would cost a gradient of the packed row's whole width.
        """
        cuts = sorted({place for row in self.rows for seen in row.seen for place in seen})
        number = {place: i for i, place in enumerate(cuts)}
        of_rows = []
        for row in self.rows:
            *shared, own = [list(range(number[begin], number[end])) for begin, end in row.seen]
            of_rows.append((list(chain(*shared)), own))
        return [end - begin for begin, end in pairwise(cuts)], of_rows

    def mask(self, row: int, window: int | None) -> Tensor | None:
        if (row, window) not in self._masks:
            mask = self.rows[row].mask(window, self.ids_1N.device)
            self._masks[row, window] = None if mask is None else mask[None, None]
        return self._masks[row, window]

    def unpack(self, states_1NH: Tensor) -> Tensor:
        """(B, L, H), where padding has the states of the first token."""
        flat = states_1NH[0].index_select(0, self.places_BL.flatten())
        return flat.view(*self.places_BL.shape, -1)


def packing_of(ids_BL: Tensor, mask_BL: Tensor | None, *, share: bool) -> Packing | None:
    """The batch without padding and, if `share`, without what a row has in common with the one before it in
    alphabetical order; None where that leaves nothing out, or where padding stands before a token.
    """
    count, width = ids_BL.shape
    lengths = [width] * count
    if mask_BL is not None:
        if mask_BL.shape != ids_BL.shape or not bool(mask_BL[:, 0].all()):
            return None
        lengths = mask_BL.sum(1).tolist()
        if not torch.equal(
            mask_BL.bool(), torch.arange(width, device=mask_BL.device) < mask_BL.sum(1)[:, None]
        ):
            return None
    rows = [row[:length] for row, length in zip(ids_BL.tolist(), lengths, strict=True)]
    order = sorted(range(count), key=lambda i: rows[i]) if share else range(count)
    places, own, ids, positions = [[0] * width for _ in rows], list[Own](), list[int](), list[int]()
    before: Sequence[int] = ()
    seen: tuple[tuple[int, int], ...] = ()
    for i in order:
        row = rows[i]
        shared = in_common(before, row) if share else 0
        shared = shared if shared >= SHORTEST_SHARED else 0
        begin, end = len(ids), len(ids) + len(row) - shared
        seen = _first(seen, shared)
        places[i][: len(row)] = [*(p for a, b in seen for p in range(a, b)), *range(begin, end)]
        if end > begin:
            seen = (*seen, (begin, end))
            own.append(Own(begin, end, seen))
        ids += row[shared:]
        positions += range(shared, len(row))
        before = row
    if len(ids) == count * width:
        return None
    on: dict[str, Any] = {"device": ids_BL.device}
    return Packing(
        tuple(own), torch.tensor([ids], **on), torch.tensor([positions], **on), torch.tensor(places, **on)
    )


def _first(ranges: tuple[tuple[int, int], ...], tokens: int) -> tuple[tuple[int, int], ...]:
    """The ranges that cover the first so many tokens."""
    found = list[tuple[int, int]]()
    for begin, end in ranges:
        if tokens <= 0:
            break
        found.append((begin, min(end, begin + tokens)))
        tokens -= end - begin
    return tuple(found)


def pack_rows(model: Any) -> None:
    """From now on the decoder of `model` packs what it can; what it cannot, it computes as before.

    Packed are batches of token ids padded on the right, without a cache, on a CPU. Models that mix tokens in other ways
    than by causal attention of transformers' interface are left as they are, and so is a batch in a cache or of
    embeddings. Dropout would be drawn once for what rows share, so with dropout nothing is shared.
    """
    if not packable(model) or model.device.type != "cpu":
        return
    decoder = getattr(model, model.base_model_prefix)
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    decoder.register_forward_pre_hook(_pack, with_kwargs=True)
    decoder.register_forward_hook(_unpack, with_kwargs=True)


@contextmanager
def padded() -> Iterator[None]:
    """Batches keep their padding between the layers, for those who look at single tokens there."""
    before = _keeps_padding.set(True)
    try:
        yield
    finally:
        _keeps_padding.reset(before)


def packable(model: Any) -> bool:
    """Whether its decoder mixes tokens by causal attention alone, as far as its modules and its config say."""
    config, decoder = model.config.get_text_config(), getattr(model, model.base_model_prefix, None)
    if decoder is None:
        return False
    causal = [m.is_causal for m in decoder.modules() if hasattr(m, "is_causal")]
    return (
        config._attn_implementation == "sdpa"
        and causal == [True] * config.num_hidden_layers
        and not getattr(config, "attention_chunk_size", None)
        and not getattr(config, "is_encoder_decoder", False)
    )


def _pack(decoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    given = {**({"input_ids": args[0]} if args else {}), **kwargs}
    ids, cache = given.get("input_ids"), given.get("use_cache")
    cached = cache or (cache is None and decoder.config.use_cache and not torch.is_grad_enabled())
    asked = any(given.get(name, getattr(decoder.config, name, False)) for name in _OUTPUTS)
    if (
        _keeps_padding.get()
        or len(args) > 1
        or ids is None
        or cached
        or asked
        or any(given.get(name) is not None for name in _INPUTS)
    ):
        return None
    packing = packing_of(ids, given.get("attention_mask"), share=not drops(decoder))
    if packing is None:
        return None
    return (), {
        **given, "input_ids": packing.ids_1N, "position_ids": packing.positions_1N,
        "attention_mask": torch.ones_like(packing.ids_1N), "use_cache": False, "packing": packing,
    }  # fmt: skip


def _unpack(decoder: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    packing: Packing | None = kwargs.get("packing")
    if packing is None:
        return None
    assert packing.layers == decoder.config.num_hidden_layers, "a layer looked across the rows of a batch"
    output.last_hidden_state = packing.unpack(output.last_hidden_state)
    return output


def drops(decoder: nn.Module) -> bool:
    """Whether a pass through it draws random numbers now."""
    if not decoder.training:
        return False
    at_attention = getattr(decoder.config, "attention_dropout", 0.0)
    return bool(at_attention) or any(isinstance(m, nn.Dropout) and m.p > 0 for m in decoder.modules())


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    packing: Packing | None = None, sliding_window: int | None = None, **settings: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' SDPA attention; over a packed batch, row by row. Shapes are of that interface: (1, heads, N, size)."""
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **settings
        )
    packing.layers += 1
    widths, of_rows = packing.pieces
    queries, keys, values = (states.split(widths, 2) for states in (query, key, value))
    out = []
    for number, (row, (shared, own)) in enumerate(zip(packing.rows, of_rows, strict=True)):
        seen, whole = [*shared, *own], row.attends_whole(sliding_window)
        found, _ = sdpa_attention_forward(
            module, _joined(queries, seen if whole else own), _joined(keys, seen), _joined(values, seen),
            None if whole else packing.mask(number, sliding_window), **settings,
        )  # fmt: skip
        out.append(found[:, row.shared :] if whole else found)
    return torch.cat(out, 1), None


def _joined(pieces: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    return pieces[numbers[0]] if len(numbers) == 1 else torch.cat([pieces[i] for i in numbers], 2)
