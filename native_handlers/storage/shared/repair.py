"""Sets right what a process left that died while it held the lock of a shared volume.

The truth is in the files, as when a volume is opened: whole rows of .idx stand, for their records were in .dat before
them; part of a row is cut; whole records that no row names are entered; an unfinished one is cut. None of that was
acknowledged. A repairer that dies in turn leaves what the next one can go on from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.idx import row_bytes
from native_handlers.format.types import align_up
from native_handlers.storage.catch_up import CatchUp
from native_handlers.storage.index_base import empty_base
from native_handlers.storage.index_build import build_index
from native_handlers.storage.last_record import check_last_record
from native_handlers.storage.needle_index import Counters, NeedleIndex

if TYPE_CHECKING:
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_open import Opened


class Repaired(NamedTuple):
    """How far the files go now. `problem` is set where they are not what any death leaves; nothing more was done."""

    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    problem: str | None = None


def repair_files(files: Files, opened: Opened, offset_width_bytes: int) -> Repaired:
    """Makes the two files whole and equal from the ends on that `opened` has, which were committed.

    Raises OSError: some of it was not done, and can be done again.
    """
    dat_bytes = files.facts_of(opened.dat.fd).size_bytes
    idx_bytes = files.facts_of(opened.idx.fd).size_bytes
    known = Repaired(opened.dat_end_bytes, opened.idx_end_bytes, opened.last_append_at_ns)
    if align_up(dat_bytes) == known.dat_end_bytes and idx_bytes == known.idx_end_bytes:
        return known
    if idx_bytes < known.idx_end_bytes or align_up(dat_bytes) < known.dat_end_bytes:
        return known._replace(problem=f"files are shorter than was committed: .dat {dat_bytes}, .idx {idx_bytes} bytes")
    excess = (idx_bytes - known.idx_end_bytes) % row_bytes(offset_width_bytes)
    if excess:
        idx_bytes -= excess
        files.truncate(opened.idx.fd, idx_bytes)
    version = opened.super_block.version
    rows = files.read(opened.idx.fd, idx_bytes - known.idx_end_bytes, known.idx_end_bytes)
    built = build_index(rows, offset_width_bytes, version)
    start, append_at_ns = known.dat_end_bytes, known.last_append_at_ns
    if built.last_row is not None:
        last = check_last_record(files, opened.dat.fd, built.last_row, version, dat_bytes, offset_width_bytes)
        if last.problem is not None:
            return known._replace(problem=last.problem)
        start, append_at_ns = last.end_bytes, max(append_at_ns, last.append_at_ns)
    # What is entered is entered in .idx only: every process, this one too, reads it from there.
    scratch = NeedleIndex.of(empty_base(has_high=offset_width_bytes == 5), Counters())
    catch_up = CatchUp(files, opened.dat, opened.idx, scratch, version, offset_width_bytes, dat_bytes, idx_bytes)
    if start < dat_bytes:
        catch_up.run(start)
    append_at_ns = max(append_at_ns, catch_up.append_at_ns)
    return Repaired(align_up(catch_up.dat_size_bytes), catch_up.idx_end_bytes, append_at_ns, catch_up.problem)
