"""Yields the needles of a volume in the order of .dat, for export. Changes nothing.

The index is read once, at the beginning: later writes are not exported. Source: weed/command/export.go.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import parse_needle
from native_handlers.format.types import max_volume_size_bytes
from native_handlers.records import dataclass
from native_handlers.storage.index.build import parse_rows
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.system.files import SharedFile, read_file
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.row_place import row_offset
from native_handlers.storage.volume.scan import DatScan, ScanEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.format.needle import Needle
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths


class ExportFailed(StorageError):
    """The rest of the volume cannot be exported. The needles yielded before are whole."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A needle with its place in .dat. `is_live` says that the index leads to it; other needles were overwritten or
    deleted.
    """

    needle: Needle
    start_bytes: int
    end_bytes: int
    is_live: bool


def walk_needles(
    files: Files,
    paths: VolumePaths,
    offset_width_bytes: int,
    *,
    with_deleted: bool = False,
    passed: Callable[[int], object] = lambda _count: None,
) -> Iterator[Exported]:
    """Yields the live needles, or all records with `with_deleted`, deletions included.

    Args:
        passed: gets the number of .dat bytes read since its last call.

    Raises:
        ExportFailed: .dat has bytes that are no record, or there is no index.
        OSError: a file cannot be read.
    """
    paths = with_index_found(files, paths)
    rows = read_file(files, paths.file(".idx"))
    if rows is None:
        raise ExportFailed(f"{paths.file('.idx')} does not exist; fix makes one")
    dat = SharedFile.open(files, paths.file(".dat"), os.O_RDONLY)
    try:
        size = files.facts_of(dat.fd).size_bytes
        block = read_super_block(files, dat.fd)
        live = _LiveRows(rows, offset_width_bytes, has_wrapped=size > max_volume_size_bytes(offset_width_bytes))
        passed(block.size_bytes)
        scan = DatScan(files, dat.fd, block.version, block.size_bytes, size)
        for record in scan:
            passed(record.end_bytes - record.offset_bytes)
            own_id = record.header.needle_id
            ids = live.ids_at(row_offset(record.offset_bytes, offset_width_bytes), own_id)
            for needle_id in ids or ([own_id] if with_deleted else []):
                data = files.read(dat.fd, record.end_bytes - record.offset_bytes, record.offset_bytes)
                needle = parse_needle(data, block.version)
                needle.needle_id = needle_id
                yield Exported(needle, record.offset_bytes, record.end_bytes, bool(ids))
        if scan.result is not ScanEnd.COMPLETE:
            raise ExportFailed(f"{paths.file('.dat')} from {scan.stopped_at_bytes} on: {scan.why}")
    except FormatError as error:
        raise ExportFailed(f"{paths.file('.dat')}: {error}") from error
    finally:
        dat.release()


class _LiveRows:
    """The rows of an index that place a needle, by place."""

    def __init__(self, rows: bytes, offset_width_bytes: int, *, has_wrapped: bool) -> None:
        """`has_wrapped`: several records may have one place."""
        ids, places, sizes = parse_rows(rows, offset_width_bytes)
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        last = last[(places[last] > 0) & (sizes[last] >= 0)]
        order = last[np.argsort(places[last], kind="stable")]
        self._places, self._ids, self._has_wrapped = places[order], ids[order], has_wrapped

    def ids_at(self, place: int, own_id: int) -> list[int]:
        """The ids of the needles that are at `place`. The record there carries `own_id`; only `WriteNeedleBlob` stores
        records under other ids.
        """
        first, behind = np.searchsorted(self._places, (place, place + 1))
        ids: list[int] = self._ids[first:behind].tolist()
        return [needle_id for needle_id in ids if needle_id == own_id] if self._has_wrapped else ids
