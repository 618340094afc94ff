"""Computes the CRC-32C of blocks from those of their pieces, which several threads compute in any order.

The checksum of two strings one after the other is that of the first, shifted by the length of the second, XOR that of
the second. Shifting a checksum is multiplying it by a matrix over GF(2), which depends only on the length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.arrays import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sums = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78


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
    """The matrix that shifts a checksum by `length_bytes`: the image of each of its bits."""
    step = (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    for _ in range(3):  # one bit, two, four, eight
        step = tuple(_apply(step, column) for column in step)
    result = tuple(1 << bit for bit in range(32))
    while length_bytes:
        if length_bytes & 1:
            result = tuple(_apply(step, column) for column in result)
        step = tuple(_apply(step, column) for column in step)
        length_bytes >>= 1
    return result


def _apply(columns: tuple[int, ...], value: int) -> int:
    total = 0
    for bit, column in enumerate(columns):
        if value >> bit & 1:
            total ^= column
    return total
