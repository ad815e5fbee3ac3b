"""Keys and values of many answers at once, each from column 0 of a row of its own.

# S slots, B rows at work, Q new tokens of each, H heads, L columns, D size of a head
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_MORE_SLOTS, _MORE_COLUMNS = 8, 256


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values (S, H, L, D), written in place; what the model reads is a view, nothing is copied."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Zeros: where a row has no tokens yet, garbage could be NaN, and 0 times NaN is no 0.
        self.keys, self.values = (
            torch.zeros(
                (self._places.slots, one.shape[1], self._places.columns, one.shape[3]), dtype=one.dtype, device=one.device
            )
            for one in (key_states, value_states)
        )  # fmt: skip
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.keys is None:
            self.lazy_initialization(key_states, value_states)
        at, read = self._places, []
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            assert kept is not None
            kept[at.rows_B1, :, at.columns_BQ] = new.transpose(1, 2)
            read.append(kept[at.first : at.first + len(new), :, : at.width])
        return read[0], read[1]

    def resize(self) -> None:
        """To what the places say; rows and columns that there were before keep their content."""
        for name in ("keys", "values"):
            if (old := getattr(self, name)) is not None:
                new = old.new_zeros((self._places.slots, old.shape[1], self._places.columns, old.shape[3]))
                slots, columns = min(len(old), len(new)), min(old.shape[2], new.shape[2])
                new[:slots, :, :columns] = old[:slots, :, :columns]
                setattr(self, name, new)

    def move(self, source: int, target: int, length: int) -> None:
        for kept in (self.keys, self.values):
            if kept is not None:
                kept[target, :, :length] = kept[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._places.width, 0

    def get_seq_length(self) -> int:
        return 0  # each row has its own; the model is given positions

    def get_max_length(self) -> int:
        return -1


class Places:
    """Where the rows of the next forward pass write and read; shared by all layers."""

    rows_B1: Tensor
    columns_BQ: Tensor
    first: int  # the rows are neighbours, from this slot on
    width: int  # columns that are read
    slots: int = 0
    columns: int = 0


class SlotCache(Cache):
    """A transformers cache whose rows come and go one by one. most: slots times columns, but for a single row."""

    def __init__(self, layers: int, most: int) -> None:
        self._at, self._most = Places(), most
        super().__init__(layers=[SlotLayer(self._at) for _ in range(layers)])

    def reserve(self, slots: int, columns: int) -> tuple[int, int]:
        """Have room for so many rows of so many tokens; more than that, where it is to be had, saves later copies.

        Returns what there is room for now; what other rows and columns held is gone.
        """
        at = self._at
        if slots <= at.slots and columns <= at.columns:
            return at.slots, at.columns
        roomy = (
            max(at.slots, -slots // _MORE_SLOTS * -_MORE_SLOTS),
            max(at.columns, -columns // _MORE_COLUMNS * -_MORE_COLUMNS),
        )
        at.slots, at.columns = roomy if roomy[0] * roomy[1] <= self._most else (slots, columns)
        for layer in self.layers:
            layer.resize()
        return at.slots, at.columns

    def aim(self, first: int, columns_BQ: Tensor, width: int) -> None:
        """The next forward pass is of the slots from `first` on, and writes each row's tokens into these columns."""
        at = self._at
        assert first + len(columns_BQ) <= at.slots and width <= at.columns, "there is no room reserved"
        rows = torch.arange(first, first + len(columns_BQ), device=columns_BQ.device)
        at.rows_B1, at.columns_BQ, at.first, at.width = rows[:, None], columns_BQ, first, width

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot to another."""
        for layer in self.layers:
            layer.move(source, target, length)
