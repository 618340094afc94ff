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
"""Of each shard in one write. The page cache takes one piece of memory for each write. Where memory is in many short
pieces, longer ones are hard to find, and a virtual machine asks its host for them."""
_PIECES_AT_ONCE = 4
"""Read together. In small blocks that is a whole row: one read of 10 MiB takes the place of 40 short ones, after each
of which a thread may have to wait for the interpreter."""

_CACHE_LINE_BYTES = 64


class _Part(NamedTuple):
    """The same range of each block of a row."""

    row: Row
    within_bytes: int
    length_bytes: int


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
    in_parallel(_parts(layout, dat_bytes), make)
    return checksums_of(ratio, shard_bytes, sums.blocks(BLOCK_BYTES), BLOCK_BYTES)


def piece_buffers(count: int, pieces: int = 1) -> list[NDArray[np.uint8]]:
    """Buffers of that many pieces of `PIECE_BYTES` for that many shards.

    Each begins at another line of the processor's cache than the others: the lines that one step reads of all shards
    then do not push each other out.
    """
    length = pieces * PIECE_BYTES
    return [row[:length] for row in np.zeros((count, length + _CACHE_LINE_BYTES), np.uint8)]


def _parts(layout: Layout, dat_bytes: int) -> Iterator[_Part]:
    step = _PIECES_AT_ONCE * PIECE_BYTES
    for row in layout.rows(dat_bytes):
        for within in range(0, row.block_bytes, step):
            yield _Part(row, within, min(step, row.block_bytes - within))


def _make_worker(
    files: Files, dat_fd: int, dat_bytes: int, ratio: Ratio, shard_fds: Sequence[int], sums: PieceSums
) -> Callable[[_Part], None]:
    arrays = piece_buffers(ratio.total, _PIECES_AT_ONCE)
    matrix = coding_matrix(ratio.data, ratio.total)[ratio.data :]

    def work(part: _Part) -> None:
        _read_part(files, dat_fd, dat_bytes, part, arrays[: ratio.data])
        offset = part.row.shard_offset_bytes + part.within_bytes
        starts = range(0, part.length_bytes, PIECE_BYTES)
        for start in starts:
            pieces = [array[start : start + PIECE_BYTES] for array in arrays]
            sums.note(offset + start, multiply_and_sum(matrix, pieces[: ratio.data], pieces[ratio.data :]))
        # Parts side by side are written at the same time: not to the same file, which lets in one writer at a time.
        first = offset // (_PIECES_AT_ONCE * PIECE_BYTES) % 2 * (ratio.total // 2)
        for shard in (*range(first, ratio.total), *range(first)):
            view = arrays[shard].data
            for start in starts:
                files.write(shard_fds[shard], [view[start : start + PIECE_BYTES]], offset + start)

    return work


def _read_part(files: Files, dat_fd: int, dat_bytes: int, part: _Part, arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Reads the range of each block, and zeros behind the end of the .dat. Raises OSError, EOFError."""
    row, within, length = part
    first = row.dat_offset_bytes + within
    lengths = [min(max(dat_bytes - first - number * row.block_bytes, 0), length) for number in range(len(arrays))]
    views = [array.data[:wanted] for array, wanted in zip(arrays, lengths, strict=True)]
    for array, wanted in zip(arrays, lengths, strict=True):
        array[wanted:length] = 0
    if length == row.block_bytes:
        got, end = files.read_into_each(dat_fd, views, first), first + sum(lengths)
        if first + got < end:
            raise _ended_early(first + got, dat_bytes)
        return
    for number, view in enumerate(views):
        start = first + number * row.block_bytes
        got = files.read_into(dat_fd, view, start) if len(view) else 0
        if got < len(view):
            raise _ended_early(start + got, dat_bytes)


def _ended_early(end_bytes: int, dat_bytes: int) -> EOFError:
    return EOFError(f"the .dat ends at {end_bytes} of {dat_bytes} bytes")
