"""Repairs the files of a shared volume after a process died with the lock.

The files decide, as when a volume is opened. Whole rows of .idx are kept: their records were in .dat before the rows. A
partial row is cut. Whole records without a row are entered; an incomplete record is cut. None of these had been
acknowledged. When the repairing process dies, too, the next one can go on from its state.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.idx import row_bytes
from native_handlers.format.types import align_up
from native_handlers.storage.index.build import build_index
from native_handlers.storage.index.needle_map import Counters, NeedleIndex
from native_handlers.storage.index.sorted_segment import empty_base
from native_handlers.storage.volume.recovery import CatchUp, check_last_record

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.state import VolumeState


class Repaired(NamedTuple):
    """The ends of the files now. `problem` is set where no death of a process leaves such files; then nothing was
    changed after the finding.
    """

    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    problem: str | None = None


def repair_files(files: Files, state: VolumeState, offset_width_bytes: int) -> Repaired:
    """Makes both files whole and consistent from the committed ends in `state` on.

    Raises OSError: a part of the repair was not done, and the repair can be repeated.
    """
    dat_bytes = files.facts_of(state.dat.fd).size_bytes
    idx_bytes = files.facts_of(state.idx.fd).size_bytes
    known = Repaired(state.dat_end_bytes, state.idx_end_bytes, state.last_append_at_ns)
    if align_up(dat_bytes) == known.dat_end_bytes and idx_bytes == known.idx_end_bytes:
        return known
    if idx_bytes < known.idx_end_bytes or align_up(dat_bytes) < known.dat_end_bytes:
        return known._replace(problem=f"files are shorter than was committed: .dat {dat_bytes}, .idx {idx_bytes} bytes")
    excess = (idx_bytes - known.idx_end_bytes) % row_bytes(offset_width_bytes)
    if excess:
        idx_bytes -= excess
        files.truncate(state.idx.fd, idx_bytes)
    version = state.super_block.version
    rows = files.read(state.idx.fd, idx_bytes - known.idx_end_bytes, known.idx_end_bytes)
    built = build_index(rows, offset_width_bytes, version)
    start, append_at_ns = known.dat_end_bytes, known.last_append_at_ns
    if built.last_row is not None:
        last = check_last_record(files, state.dat.fd, built.last_row, version, dat_bytes, offset_width_bytes)
        if last.problem is not None:
            return known._replace(problem=last.problem)
        start, append_at_ns = last.end_bytes, max(append_at_ns, last.append_at_ns)
    # New rows go into .idx only: every process, this one too, reads them from there.
    scratch = NeedleIndex.of(empty_base(has_high=offset_width_bytes == 5), Counters())
    catch_up = CatchUp(files, state.dat, state.idx, scratch, version, offset_width_bytes, dat_bytes, idx_bytes)
    if start < dat_bytes:
        catch_up.run(start)
    if catch_up.lacks_room_for:
        raise OSError(errno.ENOSPC, f"there is no room for {catch_up.lacks_room_for}")
    append_at_ns = max(append_at_ns, catch_up.append_at_ns)
    return Repaired(align_up(catch_up.dat_size_bytes), catch_up.idx_end_bytes, append_at_ns, catch_up.problem)
