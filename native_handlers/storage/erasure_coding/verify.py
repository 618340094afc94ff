"""Verifies that the shards of a volume agree, and finds the wrong ones.

The parity shards follow from the data shards. At each place where they do not, the smallest set of shards is searched
without which all others agree. With `n` more shards than data shards, up to `n // 2` may be wrong at one place: then
exactly one such set exists. Upstream has no such check.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import field
from itertools import combinations
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.crc import crc32c
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.bitrot import BLOCK_BYTES, checksums_of
from native_handlers.storage.erasure_coding.encode import PIECE_BYTES, PieceSums, piece_buffers
from native_handlers.storage.erasure_coding.errors import VerifyFailed
from native_handlers.storage.erasure_coding.galois import recovery_matrix
from native_handlers.storage.erasure_coding.kernel import multiply
from native_handlers.storage.erasure_coding.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from native_handlers.storage.erasure_coding.bitrot import Checksums
    from native_handlers.storage.erasure_coding.layout import Ratio
    from native_handlers.storage.erasure_coding.rebuild import ShardFiles
    from native_handlers.storage.system.files import Files

    Columns = NDArray[np.uint8]
    """``[shard, byte]``: the same range of all shards."""

MAX_SUSPECTS = 2
"""With more wrong shards at one place the wrong ones are not determined: there would be too many sets to try."""


@dataclass(slots=True)
class Verdict:
    """The result of a verification.

    Args:
        shard_bytes: the length of a shard.
        missing: the shards that are not in the directories.
        other_lengths: the length in bytes of each shard whose length differs from the others. Such a shard was not
            read.
        wrong_bytes: the number of bytes of a shard that disagree with the others.
        first_wrong: the offset of the first of these bytes.
        undecided_bytes: the number of places at which shards disagree and the wrong shard cannot be determined.
        block_sums: by shard, the CRC-32C of each of its blocks.
        checksums: the checksums of the shards; None unless all shards are present and agree.
    """

    shard_bytes: int
    missing: list[int]
    other_lengths: dict[int, int]
    wrong_bytes: Counter[int] = field(default_factory=Counter)
    first_wrong: dict[int, int] = field(default_factory=dict)
    undecided_bytes: int = 0
    block_sums: dict[int, list[int]] = field(default_factory=dict)
    checksums: Checksums | None = None

    @property
    def is_sound(self) -> bool:
        """Whether all present shards agree."""
        return not (self.other_lengths or self.wrong_bytes or self.undecided_bytes)


def are_equal(files: Files, first: Path, other: Path, passed: Callable[[int], object]) -> bool:
    """Whether two files have the same content. `passed` gets the number of bytes read since its last call.

    Raises OSError.
    """
    with ExitStack() as opened:
        fds = []
        for path in (first, other):
            fds.append(files.open(path, os.O_RDONLY))
            opened.callback(files.close, fds[-1])
        sizes = {files.facts_of(fd).size_bytes for fd in fds}
        if len(sizes) > 1:
            return False
        for position in range(0, sizes.pop(), PIECE_BYTES):
            one, another = (files.read(fd, PIECE_BYTES, position) for fd in fds)
            if one != another:
                return False
            passed(len(one))
    return True


def verify(
    files: Files,
    shards: ShardFiles,
    ratio: Ratio,
    passed: Callable[[int], object] = lambda _count: None,
    block_bytes: int = 0,
) -> Verdict:
    """Reads every present shard once.

    Args:
        block_bytes: the block size for `Verdict.block_sums`; 0 is the block size of an .ecsum that this server writes.
        passed: gets the number of bytes of each shard verified since its last call. Called from any thread.

    Raises:
        VerifyFailed: too few shards have one length, so none can be verified.
        OSError: a shard could not be read.
    """
    sizes = {shard: size for shard, (_, size) in sorted(shards.present.items()) if shard < ratio.total}
    shard_bytes = Counter(sizes.values()).most_common(1)[0][0] if sizes else 0
    used = [shard for shard, size in sizes.items() if size == shard_bytes]
    if len(used) <= ratio.data:
        raise VerifyFailed(
            f"{shards.base}: {len(used)} shards of one length are here; "
            f"{ratio.data + 1} at least are needed to verify one by the others"
        )
    verdict = Verdict(
        shard_bytes,
        [shard for shard in range(ratio.total) if shard not in sizes],
        {shard: size for shard, size in sizes.items() if size != shard_bytes},
    )
    sums = PieceSums(len(used), shard_bytes)
    with ExitStack() as opened:
        inputs = []
        for shard in used:
            inputs.append(files.open(shards.present[shard][0], os.O_RDONLY))
            opened.callback(files.close, inputs[-1])
        judge = _Judge(ratio, used, verdict)
        in_parallel(
            range(0, shard_bytes, PIECE_BYTES), lambda: _make_worker(files, inputs, shard_bytes, judge, sums, passed)
        )
    blocks = sums.blocks(block_bytes or BLOCK_BYTES)
    verdict.block_sums = {shard: [int(one) for one in row] for shard, row in zip(used, blocks, strict=True)}
    if verdict.is_sound and len(used) == ratio.total:
        verdict.checksums = checksums_of(ratio, shard_bytes, blocks, block_bytes or BLOCK_BYTES)
    return verdict


def _make_worker(  # noqa: PLR0913, PLR0917  what all workers share
    files: Files,
    inputs: Sequence[int],
    shard_bytes: int,
    judge: _Judge,
    sums: PieceSums,
    passed: Callable[[int], object],
) -> Callable[[int], None]:
    buffers = piece_buffers(len(inputs))

    def work(offset: int) -> None:
        length = min(PIECE_BYTES, shard_bytes - offset)
        pieces = [row[:length] for row in buffers]
        for number, fd in enumerate(inputs):
            got = files.read_into(fd, pieces[number].data, offset)
            if got < length:
                raise VerifyFailed(f"a shard ends at {offset + got}; it had {shard_bytes} bytes")
        sums.note(offset, [crc32c(piece.data) for piece in pieces])
        judge.look(pieces, offset)
        passed(length)

    return work


class _Judge:
    """Compares shards at each place, and records the wrong ones in `verdict`. Thread-safe."""

    def __init__(self, ratio: Ratio, used: Sequence[int], verdict: Verdict) -> None:
        self._ratio, self._used, self._verdict = ratio, list(used), verdict
        self._lock = threading.Lock()  # protects _verdict

    def look(self, pieces: Sequence[Columns], offset: int) -> None:
        """Compares `pieces`, which are the ranges of all used shards from `offset` on."""
        fits = self._fits(pieces, ())
        places = np.flatnonzero(~fits)
        if len(places):
            self._explain(np.stack([piece[places] for piece in pieces]), places + offset)

    def _fits(self, pieces: Sequence[Columns], suspects: tuple[int, ...]) -> NDArray[np.bool_]:
        """For each place: whether all shards agree except `suspects`, which are positions in `_used`."""
        numbers = [number for number in range(len(self._used)) if number not in suspects]
        basis, rest = numbers[: self._ratio.data], numbers[self._ratio.data :]
        present, wanted = (tuple(self._used[number] for number in some) for some in (basis, rest))
        made = np.empty((len(rest), len(pieces[0])), np.uint8)
        matrix = recovery_matrix(self._ratio.data, self._ratio.total, present, wanted)
        multiply(matrix, [pieces[number] for number in basis], list(made))
        fits = np.ones(len(pieces[0]), np.bool_)
        for row, number in zip(made, rest, strict=True):
            fits &= row == pieces[number]
        return fits

    def _explain(self, columns: Columns, places: NDArray[np.int64]) -> None:
        for count in range(1, min((len(self._used) - self._ratio.data) // 2, MAX_SUSPECTS) + 1):
            for suspects in combinations(range(len(self._used)), count):
                if not len(places):
                    return
                fits = self._fits([np.ascontiguousarray(row) for row in columns], suspects)
                self._note(suspects, places[fits])
                columns, places = columns[:, ~fits], places[~fits]
        with self._lock:
            self._verdict.undecided_bytes += len(places)

    def _note(self, suspects: Sequence[int], places: NDArray[np.int64]) -> None:
        if not len(places):
            return
        with self._lock:
            for number in suspects:
                shard, first = self._used[number], int(places[0])
                self._verdict.wrong_bytes[shard] += len(places)
                self._verdict.first_wrong[shard] = min(first, self._verdict.first_wrong.get(shard, first))
