"""Writes the shards of a .dat. Source: weed/storage/erasure_coding/ec_encoder.go (WriteEcFiles)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from native_handlers.storage.erasure_coding.bitrot import BLOCK_BYTES, checksums_of
from native_handlers.storage.erasure_coding.crc_sums import join_pieces
from native_handlers.storage.erasure_coding.galois import coding_matrix
from native_handlers.storage.erasure_coding.kernel import multiply_and_sum
from native_handlers.storage.erasure_coding.layout import Layout
from native_handlers.storage.erasure_coding.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from native_handlers.storage.erasure_coding.bitrot import Checksums
    from native_handlers.storage.erasure_coding.crc_sums import Sums
    from native_handlers.storage.erasure_coding.layout import Ratio, Row
    from native_handlers.storage.system.files import Files

PIECE_BYTES = 256 << 10
"""Of each shard at a time: as long as writing it in one go pays."""

_CACHE_LINE_BYTES = 64


class _Piece(NamedTuple):
    """The same range of each shard, and where it is in the block of its row."""

    row: Row
    within_bytes: int


class PieceSums:
    """The checksums of shards as their pieces become known, in any order."""

    def __init__(self, shard_count: int, shard_bytes: int) -> None:
        self._pieces: Sums = np.zeros((shard_count, -(-shard_bytes // PIECE_BYTES)), np.uint32)

    def note(self, offset_bytes: int, checksums: Sequence[int]) -> None:
        """`checksums` are those of the pieces at `offset_bytes`, one for each shard."""
        self._pieces[:, offset_bytes // PIECE_BYTES] = checksums

    def blocks(self, block_bytes: int) -> Sums:
        """``[shard, block]``."""
        return join_pieces(self._pieces, PIECE_BYTES, block_bytes)


def encode(
    files: Files, dat_fd: int, dat_bytes: int, ratio: Ratio, shard_fds: Sequence[int], layout: Layout | None = None
) -> Checksums:
    """Writes every shard of the first `dat_bytes` of a .dat to its open file, and returns their checksums.

    Args:
        layout: None for upstream's blocks. Blocks are multiples of `PIECE_BYTES`.

    Raises OSError: what was written of the shards is worth nothing.
    """
    layout = layout or Layout.of_dat(dat_bytes, ratio.data)
    shard_bytes = layout.shard_bytes(dat_bytes)
    sums = PieceSums(ratio.total, shard_bytes)
    make = partial(_make_worker, files, dat_fd, dat_bytes, ratio, shard_fds, sums)
    in_parallel(_pieces(layout, dat_bytes), make)
    return checksums_of(ratio, shard_bytes, sums.blocks(BLOCK_BYTES), BLOCK_BYTES)


def piece_buffers(count: int) -> list[NDArray[np.uint8]]:
    """Buffers of `PIECE_BYTES` for that many shards.

    Each begins at another line of the processor's cache than the others: the lines that one step reads of all shards
    then do not push each other out.
    """
    return [row[:PIECE_BYTES] for row in np.zeros((count, PIECE_BYTES + _CACHE_LINE_BYTES), np.uint8)]


def _pieces(layout: Layout, dat_bytes: int) -> Iterator[_Piece]:
    for row in layout.rows(dat_bytes):
        for within in range(0, row.block_bytes, PIECE_BYTES):
            yield _Piece(row, within)


def _make_worker(
    files: Files, dat_fd: int, dat_bytes: int, ratio: Ratio, shard_fds: Sequence[int], sums: PieceSums
) -> Callable[[_Piece], None]:
    arrays = piece_buffers(ratio.total)
    views = [array.data for array in arrays]
    matrix = coding_matrix(ratio.data, ratio.total)[ratio.data :]

    def work(piece: _Piece) -> None:
        row, within = piece
        for shard in range(ratio.data):
            start = row.dat_offset_bytes + shard * row.block_bytes + within
            wanted = min(max(dat_bytes - start, 0), PIECE_BYTES)
            got = files.read_into(dat_fd, views[shard][:wanted], start) if wanted else 0
            if got < wanted:
                raise EOFError(f"the .dat ends at {start + got} of {dat_bytes} bytes")
            arrays[shard][wanted:] = 0
        offset = row.shard_offset_bytes + within
        sums.note(offset, multiply_and_sum(matrix, arrays[: ratio.data], arrays[ratio.data :]))
        # Pieces side by side are written at the same time: not to the same file, which lets in one writer at a time.
        first = offset // PIECE_BYTES % 2 * (ratio.total // 2)
        for shard in (*range(first, ratio.total), *range(first)):
            files.write(shard_fds[shard], [views[shard]], offset)

    return work
