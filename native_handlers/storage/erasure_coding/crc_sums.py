"""Computes the CRC-32C of blocks from those of their pieces, which several threads compute in any order.

The checksum of two strings one after the other is that of the first, moved by the length of the second, XOR that of the
second (`format/crc`). Here many checksums are moved by one length at once: moving is a matrix over GF(2), which depends
only on the length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format import crc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sums = NDArray[np.uint32]


def join_pieces(pieces: Sums, piece_bytes: int, block_bytes: int) -> Sums:
    """The checksum of each block, for each shard.

    Args:
        pieces: [shard, piece]: the checksum of each piece of `piece_bytes`, in order.
        block_bytes: a multiple of `piece_bytes`. The last block may have fewer pieces.
    """
    each = block_bytes // piece_bytes
    shards, count = pieces.shape
    blocks = -(-count // each)
    sums: Sums = np.zeros((shards, blocks), np.uint32)
    for place in range(each):
        some = pieces[:, place::each]
        sums[:, : some.shape[1]] = _moved(sums[:, : some.shape[1]], piece_bytes) ^ some
    return sums


def _moved(sums: Sums, length_bytes: int) -> Sums:
    moved: Sums = np.zeros_like(sums)
    for bit, column in enumerate(_columns(length_bytes)):
        moved ^= (sums >> np.uint32(bit) & np.uint32(1)) * np.uint32(column)
    return moved


@lru_cache(maxsize=16)
def _columns(length_bytes: int) -> tuple[int, ...]:
    """The matrix that moves a checksum by `length_bytes`: the image of each of its bits."""
    return tuple(crc.moved(1 << bit, length_bytes) for bit in range(32))
