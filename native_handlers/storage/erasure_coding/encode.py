"""Writes the shards of a .dat. Source: weed/storage/erasure_coding/ec_encoder.go (WriteEcFiles)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
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

PIECE_BYTES = 1 << 20
"""Of each shard, computed in one go. A row of small blocks is one read of 10 MiB and one run of the kernel: after each
call a thread may have to wait for the interpreter."""
_WRITE_BYTES = 256 << 10
"""Of a shard in one write. The page cache takes one piece of memory for each write. Where memory is in many short
pieces, longer ones are hard to find, and a virtual machine asks its host for them."""

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


def piece_buffers(count: int) -> list[NDArray[np.uint8]]:
    """A buffer of `PIECE_BYTES` for each of that many shards.

    Each begins at another line of the processor's cache than the others: the lines that one step reads of all shards
    then do not push each other out.
    """
    return [row[:PIECE_BYTES] for row in np.zeros((count, PIECE_BYTES + _CACHE_LINE_BYTES), np.uint8)]


def write_piece(files: Files, fd: int, piece: NDArray[np.uint8], offset_bytes: int) -> None:
    """Writes a piece of a shard, in as many writes as suit the page cache. Raises OSError."""
    view = piece.data
    for start in range(0, len(view), _WRITE_BYTES):
        files.write(fd, [view[start : start + _WRITE_BYTES]], offset_bytes + start)


def _parts(layout: Layout, dat_bytes: int) -> Iterator[_Part]:
    for row in layout.rows(dat_bytes):
        for within in range(0, row.block_bytes, PIECE_BYTES):
            yield _Part(row, within, min(PIECE_BYTES, row.block_bytes - within))


def _make_worker(
    files: Files, dat_fd: int, dat_bytes: int, ratio: Ratio, shard_fds: Sequence[int], sums: PieceSums
) -> Callable[[_Part], None]:
    buffers = piece_buffers(ratio.total)
    matrix = coding_matrix(ratio.data, ratio.total)[ratio.data :]

    def work(part: _Part) -> None:
        arrays = [buffer[: part.length_bytes] for buffer in buffers]
        data, parity = arrays[: ratio.data], arrays[ratio.data :]
        _read_part(files, dat_fd, dat_bytes, part, data)
        offset = part.row.shard_offset_bytes + part.within_bytes
        sums.note(offset, multiply_and_sum(matrix, data, parity))
        # Parts side by side are written at the same time: not to the same file, which lets in one writer at a time.
        first = offset // PIECE_BYTES % 2 * (ratio.total // 2)
        for shard in (*range(first, ratio.total), *range(first)):
            write_piece(files, shard_fds[shard], arrays[shard], offset)

    return work


def _read_part(files: Files, dat_fd: int, dat_bytes: int, part: _Part, arrays: Sequence[NDArray[np.uint8]]) -> None:
    """Reads the range of each block, and zeros behind the end of the .dat. Raises OSError, EOFError."""
    row, within, length = part
    first = row.dat_offset_bytes + within
    lengths = [min(max(dat_bytes - first - number * row.block_bytes, 0), length) for number in range(len(arrays))]
    views = [array.data[:wanted] for array, wanted in zip(arrays, lengths, strict=True)]
    for array, wanted in zip(arrays, lengths, strict=True):
        array[wanted:] = 0
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
