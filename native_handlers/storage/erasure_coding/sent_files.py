"""Files of erasure-coded volumes, read for a copy elsewhere. Source: weed/server/volume_grpc_copy.go (CopyFile)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.idx import row_bytes
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.erasure_coding.codings import newest_on_disks
from native_handlers.storage.erasure_coding.deletions import journals_of
from native_handlers.storage.erasure_coding.files_on_disk import info_on, look
from native_handlers.storage.erasure_coding.index_files import (
    deleted_ids_in,
    journal_ids,
    journal_rows,
    live_rows_of,
)
from native_handlers.storage.erasure_coding.names import encode_ts_of
from native_handlers.storage.model.errors import DiskUnavailable
from native_handlers.storage.system.files import SharedFile, read_file
from native_handlers.storage.volume.file_reader import FileReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles
    from native_handlers.storage.system.files import Files

_TOMBSTONE = TOMBSTONE_SIZE.to_bytes(4, "big", signed=True)
_SIZE_BYTES = len(_TOMBSTONE)
"""The length of the size, with which each row of an .ecx ends."""


def open_coded_file(ec: EcVolumeSet, collection: str, volume_id: int, extension: str) -> FileReader | None:
    """Opens a file of an erasure-coded volume on any disk of this node; None when there is none. Of several disks the
    last one counts, and its index directory before its data directory, as upstream. An empty file counts where there is
    no other.

    Wilful differences: where the disks have several codings, files of the newest one alone are sent. The caller takes
    one file after the other, and gives shards of all disks one .vif and one index. Files of disks with neither shards
    nor an index are sent only where no disk has either: the .vif there may be that of a regular volume. An .ecj has the
    deletions of all journals of that coding: a disk that was out of service lacks some. An .ecx has the deletions of
    all indexes of that coding: Go's server writes those of its journal into the index of one disk (RebuildEcxFile) and
    removes the journal.

    Raises:
        OSError: a file is there and cannot be opened, or whether it is there cannot be told.
        DiskUnavailable: a disk is out of service, and the others have no such file. An .ecsum, and an .ecj whose rows
            are known, are then none where another disk has files of the coding.
    """
    served = [one for one in ec.locations if not one.is_unavailable]
    has_choice = len(ec.locations) > 1 or extension == ".ecj"
    looked = [look(ec.files, one, collection, volume_id) for one in served] if has_choice else []
    coded = [one for one in looked if one.shard_ids or one.has_ecx]
    newest = newest_on_disks(ec.files, coded) if len(coded) > 1 else coded
    name = format_volume_name(collection, volume_id) + extension
    candidates = _in_order(ec.locations, newest)
    if newest and (extension == ".ecsum" or (extension == ".ecj" and _knows_deletions(ec, collection, volume_id))):
        # A copy goes on without these files.
        candidates = [one for one in candidates if not one.is_unavailable]
    path = _find(ec.files, candidates, name)
    if extension == ".ecj" and newest:
        sent = journal_ids(read_file(ec.files, path) or b"") if path is not None else []
        lacking = _deletions(ec, newest, collection, volume_id).difference(sent)
        if lacking:
            rows = journal_rows((*sent, *sorted(lacking)))
            return _in_memory(ec.files, path or newest[0].path(extension), rows)
    if path is None:
        return None
    file = SharedFile.open(ec.files, path, os.O_RDONLY)
    if extension == ".ecx":
        others = {one for found in newest for one in found.on_either_side(extension)} - {path}
        return _open_index(ec, file, sorted(others))
    return FileReader(ec.files, file, None)


def _knows_deletions(ec: EcVolumeSet, collection: str, volume_id: int) -> bool:
    """Whether no disk out of service has deletions that are not known: open volumes have those of all journals."""
    if any(one.collection == collection for one in ec.copies(volume_id)):
        return True
    try:
        ec.check_known_in_service(collection, volume_id)
    except DiskUnavailable:
        return False
    return True


def _in_order(locations: Sequence[DiskLocation], newest: Sequence[EcFiles]) -> list[DiskLocation]:
    """The disks, the first choice first. Where some have the newest coding, other disks in service are left out."""
    chosen = [one.location for one in newest]
    left = [one for one in locations if not chosen or one in chosen or one.is_unavailable]
    return sorted(left, key=lambda one: (one.is_unavailable, -one.disk_id))


def _find(files: Files, locations: Sequence[DiskLocation], name: str) -> Path | None:
    empty = None
    for location in locations:
        if empty is None:
            location.check_in_service()
        elif location.is_unavailable:
            break
        for directory in dict.fromkeys((location.idx_path, location.path)):
            facts = files.facts(directory / name)
            if facts is not None and facts.size_bytes:
                return directory / name
            if facts is not None and empty is None:
                empty = directory / name
    return empty


def _deletions(ec: EcVolumeSet, newest: Sequence[EcFiles], collection: str, volume_id: int) -> set[int]:
    """The ids that were deleted from one coding, which these disks have: those that its open volumes know, and those in
    the journals that no volume has open. Raises OSError.
    """
    copies = [one for one in ec.copies(volume_id) if one.collection == collection]
    disk_ids = {one.location.disk_id for one in newest}
    known_times = [one.encode_ts_ns for one in copies if one.place.disk_id in disk_ids]
    encode_ts_ns = max(known_times or (encode_ts_of(info_on(ec.files, one)) for one in newest))
    opened = [one.deletions for one in copies if one.encode_ts_ns == encode_ts_ns]
    served = [one for one in ec.locations if not one.is_unavailable]
    known = {path for one in opened for path in one.paths}
    found = journals_of(ec.files, served, newest[0].name, encode_ts_ns, known, leaves_out_unreadable=False)
    return set(found).union(*(one.ids for one in opened))


def _open_index(ec: EcVolumeSet, file: SharedFile, others: Sequence[Path]) -> FileReader:
    """Takes over the hold on an .ecx, to be sent with the deletions that other indexes have. Raises OSError; the hold
    is then released.
    """
    try:
        deleted = [deleted_ids_in(ec.files, path, ec.width) for path in others]
        ids = np.unique(np.concatenate(deleted)) if deleted else np.empty(0, np.uint64)
        rows = live_rows_of(ec.files, file.fd, ec.width, ids) if len(ids) else np.empty(0, np.int64)
    except BaseException:
        file.release()
        raise
    if not len(rows):
        return FileReader(ec.files, file, None)
    return _IndexReader(ec.files, file, (rows + 1) * row_bytes(ec.width) - _SIZE_BYTES)


class _IndexReader(FileReader):
    """Reads an .ecx, and some of its rows as those of deleted needles."""

    def __init__(self, files: Files, file: SharedFile, sizes_at: NDArray[np.int64]) -> None:
        """As `FileReader`. `sizes_at` has the offsets of the sizes in those rows, in order."""
        super().__init__(files, file, None)
        self._sizes_at = sizes_at

    def pieces(self, stop_bytes: int) -> Iterator[bytes]:
        position = 0
        for piece in super().pieces(stop_bytes):
            end = position + len(piece)
            # A size may begin in the piece before, or end in the next one.
            first, last = np.searchsorted(self._sizes_at, (position - _SIZE_BYTES + 1, end))
            if first == last:
                yield piece
            else:
                at = (self._sizes_at[first:last, np.newaxis] + np.arange(_SIZE_BYTES)).ravel() - position
                tombstones = np.tile(np.frombuffer(_TOMBSTONE, np.uint8), last - first)
                is_here = (at >= 0) & (at < len(piece))
                marked = np.frombuffer(piece, np.uint8).copy()
                marked[at[is_here]] = tombstones[is_here]
                yield marked.tobytes()
            position = end


def _in_memory(files: Files, path: Path, content: bytes) -> FileReader:
    """A file with that content that has no name. Errors name `path`."""
    file = SharedFile(files, path, files.memory_file(path.name))
    try:
        files.write(file.fd, [content], 0)
    except OSError:
        file.release()
        raise
    return FileReader(files, file, None)
