"""BOFT's block-diagonal matrices in plain torch, in the place of a kernel that PEFT compiles when it is first asked.

# N butterfly factors, D blocks of H x H
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class _Blocks:
    """The two functions of PEFT's CUDA extension, each with its list of one tensor."""

    @staticmethod
    def forward(blocks_NDHH: Tensor) -> list[Tensor]:
        """[(N, D H, D H)], the blocks on the diagonal and zeros elsewhere."""
        factors, count, size, _ = blocks_NDHH.shape
        out = blocks_NDHH.new_zeros(factors, count * size, count * size)
        _diagonal(out, count, size).copy_(blocks_NDHH.permute(0, 2, 3, 1))
        return [out]

    @staticmethod
    def backward(gradient: Tensor, blocks_NDHH: Tensor) -> list[Tensor]:
        """[(N, D, H, H)], the blocks on the diagonal of a gradient (N, D H, D H)."""
        _, count, size, _ = blocks_NDHH.shape
        return [_diagonal(gradient.contiguous(), count, size).permute(0, 3, 1, 2).contiguous()]


def _diagonal(matrices: Tensor, count: int, size: int) -> Tensor:
    """(N, H, H, D): a view of the blocks on the diagonal."""
    return matrices.view(-1, count, size, count, size).diagonal(dim1=1, dim2=3)


def use_torch() -> None:
    """Where the extension cannot be compiled, PEFT warns and makes an adapter of one factor instead of those asked for;
    its file then fits no machine that can, and the other way round. In torch every machine makes the same one.
    """
    from peft.tuners.boft import layer

    layer._FBD_CUDA = _Blocks


@contextlib.contextmanager
def without_permutations() -> Iterator[None]:
    """Layers are made on the meta device, where PEFT cannot fill the permutation matrices that it keeps beside them."""
    from peft.tuners.boft.layer import BOFTLayer

    kept = BOFTLayer.block_butterfly_perm, BOFTLayer.perm2mat
    BOFTLayer.block_butterfly_perm = lambda self, width, *_: width
    BOFTLayer.perm2mat = lambda self, width: torch.empty(width, width)
    try:
        yield
    finally:
        BOFTLayer.block_butterfly_perm, BOFTLayer.perm2mat = kept
