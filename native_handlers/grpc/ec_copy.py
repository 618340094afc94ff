"""VolumeEcShardsCopy: fetches shards and their companion files from another server.

Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsCopy).
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import grpc

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.vif import parse_volume_info
from native_handlers.format.volume_name import format_volume_name
from native_handlers.grpc.checks import check_maintenance, check_other, errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd, CopySource, receive_copy
from native_handlers.grpc.file_names import check_collection
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.directory.placement import choose_for_shard
from native_handlers.storage.erasure_coding.files_on_disk import (
    EcFiles,
    checksum_paths,
    info_on,
    look,
    remove_paths,
)
from native_handlers.storage.erasure_coding.index_files import ID_BYTES, deleted_ids, journal_rows
from native_handlers.storage.erasure_coding.names import encode_ts_of, shard_extension
from native_handlers.storage.model.file_kinds import MAX_SHARDS, other_collection_text
from native_handlers.storage.system.files import read_file
from native_handlers.storage.transfer.receive import StagedFile
from native_handlers.storage.transfer.received_files import MAX_VIF_BYTES, coded_info_file
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.store import Store

ANY_REVISION = 2**32 - 1
ALL = 2**63 - 1
MAX_IDS_WITHOUT_INDEX = 1 << 17
_JOURNAL_PIECE_BYTES = 1 << 20
_NAMING_ORDER = {".vif": 0, ".ecx": 2}
"""The .vif tells the coding of shards, and the .ecx makes them readable."""
MAX_CHECKSUMS_BYTES = 1 << 24


def volume_ec_shards_copy(
    node: GrpcNode, context: RpcContext, request: pb.VolumeEcShardsCopyRequest
) -> pb.VolumeEcShardsCopyResponse:
    """Fetches shards, and the index, journal, .vif and checksums that the request asks for. The ids of the fetched
    journal are added to the present journal.

    Wilful difference: the files get their names when all of them are on disk. Upstream writes each one in place, so a
    copy that fails may leave new shards beside the index of an older coding.

    Raises RpcFailure: no file has changed, except where a name could not be given; the text then says so.
    """
    check_maintenance(node)
    check_collection(request.collection)
    for shard_id in request.shard_ids:
        if shard_id >= MAX_SHARDS:
            raise RpcFailure(f"VolumeEcShardsCopy volume {request.volume_id}: there is no shard {shard_id}")
    store = store_of(node)
    volume = store.find_volume(request.volume_id)
    if volume is not None and volume.collection != request.collection:
        raise RpcFailure(other_collection_text(volume.id, volume.collection, request.collection))
    with errors_as_upstream():
        location = _location(store, request)
        location.check_in_service()
    with node.volume_servers.open_volume_server(request.source_data_node) as client:
        end = CallEnd(context)
        bytes_per_s = request.io_byte_per_second
        if bytes_per_s <= 0:
            bytes_per_s = node.facts.maintenance_bytes_per_s
        source = CopySource(client, end, WriteThrottler(bytes_per_s, end.pause))
        try:
            with store.ec.exclusive(request.volume_id):
                ShardCopy(store, source, location, request.collection, request.volume_id).copy(request)
        except RpcFailure as failure:
            if isinstance(failure.__cause__, grpc.RpcError):
                check_other(node, failure.__cause__, "copy shards")
            text = f"VolumeEcShardsCopy volume {request.volume_id}: {failure.message}"
            raise RpcFailure(text, failure.code) from failure
    return pb.VolumeEcShardsCopyResponse()


def _location(store: Store, request: pb.VolumeEcShardsCopyRequest) -> DiskLocation:
    locations = store.locations
    if request.disk_id:
        if request.disk_id >= len(locations):
            raise RpcFailure(f"invalid disk_id {request.disk_id}: only have {len(locations)} disks")
        return locations[request.disk_id]
    mounted = [volume.place.disk_id for volume in store.ec.copies(request.volume_id)]
    location = choose_for_shard(store.ec.files, locations, request.collection, request.volume_id, mounted)
    if location is None:
        raise RpcFailure("no space left")
    return location


class ShardCopy:
    """Fetches files of one volume to one disk. The caller is inside `exclusive` of the volume.

    The files get their names when all of them are on disk. Where they replace those of an older coding, the index of
    the older one is removed first, and the new index gets its name last: a crash between leaves shards without index,
    which are not opened.
    """

    def __init__(
        self, store: Store, source: CopySource, location: DiskLocation, collection: str, volume_id: int
    ) -> None:
        self._store, self._source, self._location = store, source, location
        self._collection, self._volume_id = collection, volume_id
        self._files = store.ec.files
        self._complete: list[StagedFile] = []
        self._replaced: list[EcFiles] = []
        """What another coding has left, whose shards are all replaced."""
        self._coding = 0
        """The time of the source's coding, where that was asked for."""

    def copy(self, request: pb.VolumeEcShardsCopyRequest) -> None:
        """Fetches the files of a request. Raises RpcFailure, as `volume_ec_shards_copy`."""
        with self._publishing():
            with errors_as_upstream():
                self._location.check_in_service()
                takes = request.copy_vif_file, request.copy_ecx_file
                self._check_coding(set(request.shard_ids), takes_info=takes[0], takes_index=takes[1])
            for shard_id in request.shard_ids:
                self._fetch_file(shard_extension(shard_id))
            if request.copy_ecsum_file:
                self._fetch_file(".ecsum", is_optional=True, max_bytes=MAX_CHECKSUMS_BYTES)
            if request.copy_vif_file:
                self._fetch_info()
            if request.copy_ecx_file:
                self._fetch_index()
            self._publish(self._fetch_journal() if request.copy_ecj_file else [])

    def copy_index(self) -> None:
        """Fetches the index, the journal and the .vif for the shards on this disk. Raises RpcFailure as `copy`; then
        also where those shards are of another coding.
        """
        with self._publishing():
            with errors_as_upstream():
                self._check_coding((), takes_info=True, takes_index=True, trusts_unknown=True)
            self._fetch_info()
            self._fetch_index()
            self._publish(self._fetch_journal())

    # ---- the coding of the source, and that of the files here

    def _check_coding(
        self, shard_ids: Collection[int], *, takes_info: bool, takes_index: bool, trusts_unknown: bool = False
    ) -> None:
        """Compares the coding of the source with that of the files on this disk, and on the disks with the same index.

        Args:
            shard_ids: the shards that are fetched, and replace those of that name.
            takes_info: whether the .vif is fetched.
            takes_index: whether the .ecx is fetched.
            trusts_unknown: whether shards without any .vif are taken to be of the source's coding.

        Raises:
            RpcFailure: shards of two codings would have one .vif or one index. Nothing was fetched.
            OSError, DiskUnavailable.
        """
        known = [(one, self._coding_here(one)) for one in self._on_disks_with_this_index()]
        if not any(found.shard_ids or found.has_index or (here and not takes_info) for found, here in known):
            return
        there = self._coding = self._coding_of_source()
        for found, here in known:
            if there in {0, here} or (here is None and trusts_unknown):
                continue
            is_here = found.location is self._location
            kept = set(found.shard_ids) - set(shard_ids if is_here else ())
            directories = {found.location.path, found.location.idx_path}
            opened = [one for one in self._store.ec.copies(self._volume_id) if one.place.index_dir in directories]
            if kept or (here and (opened or (is_here and not takes_info))):
                raise RpcFailure(f"{found.path('')} belongs to a different encode run (want {there}, got {here or 0})")
            if here or takes_index:
                # Without a .vif and shards, an index is a left-over.
                self._replaced.append(found)

    def _coding_here(self, found: EcFiles) -> int | None:
        """The time of the coding of the files on a disk: that of the .vif, or of the volume that is open there; None
        where there is neither.
        """
        info = info_on(self._files, found)
        opened = (one for one in self._store.ec.copies(self._volume_id) if self._is_on(one, found.location))
        times = [*([encode_ts_of(info)] if info is not None else []), *(one.encode_ts_ns for one in opened)]
        return max(times, default=None)

    def _is_on(self, volume: EcVolume, location: DiskLocation) -> bool:
        return self._store.locations[volume.place.disk_id] is location and volume.collection == self._collection

    def _on_disks_with_this_index(self) -> list[EcFiles]:
        """The volume's files on this disk, and on the disks in service with the same index directory."""
        locations = [
            one
            for one in self._store.locations
            if one is self._location or (one.idx_path == self._location.idx_path and not one.is_unavailable)
        ]
        return [look(self._files, one, self._collection, self._volume_id) for one in locations]

    def _coding_of_source(self) -> int:
        """The time of the coding in the source's .vif; 0 where that is not known. Raises RpcFailure."""
        try:
            return encode_ts_of(parse_volume_info(self._fetch_to_memory(".vif", MAX_VIF_BYTES)))
        except FormatError:
            return 0

    # ---- fetching

    def _fetch_file(self, extension: str, *, is_optional: bool = False, max_bytes: int | None = None) -> None:
        path = self._path(self._location.path, extension)
        make = partial(StagedFile, self._files, path, max_bytes=max_bytes)
        self._fetch(extension, make, is_optional=is_optional)

    def _fetch_index(self) -> None:
        """An empty .ecx is refused: a failed copy leaves an empty one."""
        path = self._path(self._index_dir(), ".ecx")
        self._fetch(".ecx", partial(_IndexFile, self._files, path))

    def _index_dir(self) -> Path:
        """The directory of the index that the shards on this disk use, or will use."""
        own = (self._location.path, self._location.idx_path)
        opened = (
            one.place.index_dir for one in self._store.ec.copies(self._volume_id) if self._is_on(one, self._location)
        )
        in_use = next((one for one in opened if one in own), None)
        if in_use is not None:
            return in_use
        facts = self._files.facts(self._path(self._location.path, ".ecx"))
        return self._location.path if facts is not None and facts.size_bytes else self._location.idx_path

    def _fetch_info(self) -> None:
        """Fetches the .vif, if the source has one. The checks of ReceiveFile apply to the .vif."""
        paths = VolumePaths(self._location.path, self._location.idx_path, self._collection, self._volume_id)
        volume, width = self._store.find_volume(self._volume_id), self._store.offset_width_bytes
        self._fetch(".vif", partial(coded_info_file, self._files, paths, volume, width), is_optional=True)

    def _fetch_journal(self) -> list[int]:
        """The ids in the source's .ecj. A deletion is of a needle in the index, so the index bounds their number."""
        indexes = [one.size_bytes for one in self._complete if one.target.suffix == ".ecx"]
        with errors_as_upstream():
            index_dir = self._store.ec.find_index_dir(self._collection, self._volume_id, self._location)
            facts = self._files.facts(self._path(index_dir, ".ecx")) if index_dir is not None else None
        indexes.append(facts.size_bytes if facts is not None else 0)
        rows = max(indexes) // row_bytes(self._store.offset_width_bytes)
        journal = _SentJournal(self._path(self._location.path, ".ecj"), max(rows, MAX_IDS_WITHOUT_INDEX))
        self._receive(".ecj", lambda: cast("StagedFile", journal), is_optional=True)
        return journal.ids()

    def _fetch_to_memory(self, extension: str, max_bytes: int) -> bytes:
        """The content of an optional file; b"" where the source has none. Raises RpcFailure."""
        content = _Memory(self._path(self._location.path, extension), max_bytes)
        self._receive(extension, lambda: cast("StagedFile", content), is_optional=True)
        return bytes(content.data)

    def _fetch(self, extension: str, make: Callable[[], StagedFile], *, is_optional: bool = False) -> None:
        """Fetches one file, which then waits for its name. Raises RpcFailure; then no part of the file stays."""
        self._receive(extension, lambda: cast("StagedFile", _Waiting(make(), self._complete)), is_optional=is_optional)

    def _receive(self, extension: str, make: Callable[[], StagedFile], *, is_optional: bool) -> None:
        request = pb.CopyFileRequest(
            volume_id=self._volume_id,
            ext=extension,
            compaction_revision=ANY_REVISION,
            stop_offset=ALL,
            collection=self._collection,
            is_ec_volume=True,
            ignore_source_file_not_found=is_optional,
        )
        made = []

        def note() -> StagedFile:
            made.append(make())
            return made[0]

        for _ in receive_copy(self._source, request, note):
            pass
        if not made and not is_optional:
            raise RpcFailure(f"failed to copy {self._volume_id}{extension} file: the source sent nothing")

    # ---- names

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Removes the files that have no name at the end."""
        try:
            yield
        finally:
            for file in self._complete:
                file.discard()

    def _publish(self, journal: list[int]) -> None:
        """Gives the files their names, the index last. What the present index or journal has as deleted stays deleted,
        and so does what the new ones have.

        Raises RpcFailure.
        """
        with errors_as_upstream("write file"):
            index_dir = self._index_dir()
            ecx, ecj = (self._path(index_dir, extension) for extension in (".ecx", ".ecj"))
            new_index = next((one for one in self._complete if isinstance(one, _IndexFile)), None)
            deleted = [*journal, *(new_index.deleted(self._store.offset_width_bytes) if new_index else [])]
            if self._replaced and deleted:
                # The deletions of the older coding are not those of this one.
                staged = StagedFile(self._files, ecj)
                self._complete.append(staged)
                staged.write(journal_rows(dict.fromkeys(deleted)))
                staged.complete()
        with errors_as_upstream("remove files of an older coding"):
            for found in self._replaced:
                self._remove(found)
        if not self._replaced:
            # Deletions come before the index with which the shards can be read.
            with errors_as_upstream("write file"):
                if new_index is not None:
                    deleted += deleted_ids(read_file(self._files, ecx) or b"", self._store.offset_width_bytes)
                if deleted:
                    coding = self._coding or self._coding_of_files()
                    self._store.ec_work.merge_journal(self._collection, self._volume_id, ecj, deleted, coding)
        with errors_as_upstream("commit copied file"):
            for file in sorted(self._complete, key=lambda one: _NAMING_ORDER.get(one.target.suffix, 1)):
                file.publish()
            for volume in self._store.ec.copies(self._volume_id) if new_index is not None else ():
                if volume.place.index(".ecx") == ecx:
                    volume.reopen_index()

    def _coding_of_files(self) -> int:
        """The time of the coding of the copied files: that of the .vif here, else that of the source."""
        found = look(self._files, self._location, self._collection, self._volume_id)
        return self._coding_here(found) or self._coding_of_source()

    def _remove(self, found: EcFiles) -> None:
        """Removes an older coding: first its index, last its .vif. So no shard of it lies beside an index or a .vif of
        another coding, also after a crash.
        """
        paths = [*found.on_either_side(".ecx"), *found.on_either_side(".ecj"), *checksum_paths(self._files, found)]
        paths += [found.path(shard_extension(shard)) for shard in found.shard_ids]
        if not found.has_volume:
            paths += found.on_either_side(".vif")
        remove_paths(self._files, paths)

    def _path(self, directory: Path, extension: str) -> Path:
        return directory / (format_volume_name(self._collection, self._volume_id) + extension)


class _IndexFile(StagedFile):
    """A staged .ecx. An empty file is refused."""

    def deleted(self, width: int) -> list[int]:
        """The ids that the file has as deleted. Raises OSError."""
        return deleted_ids(read_file(self._files, self._path) or b"", width)

    def complete(self, modified_at_ns: int = 0) -> None:
        if not self.size_bytes:
            self.discard()
            raise RpcFailure("source .ecx is 0 bytes")
        super().complete(modified_at_ns)


class _Waiting:
    """Has the interface of `StagedFile`. `commit` puts the content on disk and adds the file to `complete`."""

    def __init__(self, file: StagedFile, complete: list[StagedFile]) -> None:
        self._file, self._others = file, complete
        self._is_complete = False
        self.target, self.write = file.target, file.write

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def commit(self, modified_at_ns: int = 0) -> None:
        """Raises as `StagedFile.complete`."""
        self._file.complete(modified_at_ns)
        self._is_complete = True
        self._others.append(self._file)

    def discard(self) -> None:
        """Removes the file. After `commit` it does nothing."""
        if not self._is_complete:
            self._file.discard()


class _SentJournal:
    """Has the interface of `StagedFile`, and keeps the ids of an .ecj, each once.

    Go's server appends the ids of a source at each copy, so a journal may have them many times.
    """

    def __init__(self, target: Path, max_ids: int) -> None:
        self.target, self._max_ids = target, max_ids
        self.size_bytes = 0
        self._ids = np.empty(0, np.uint64)
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        self.size_bytes += len(data)
        if len(self._pending) >= _JOURNAL_PIECE_BYTES:
            self._take_in()

    def _take_in(self) -> None:
        whole = len(self._pending) // ID_BYTES * ID_BYTES
        new = np.frombuffer(bytes(self._pending[:whole]), ">u8")
        del self._pending[:whole]
        self._ids = np.union1d(self._ids, new.astype(np.uint64))
        if len(self._ids) > self._max_ids:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.target))

    def commit(self, modified_at_ns: int = 0) -> None:
        """Raises OSError where there are too many ids. A partial id at the end was never acknowledged."""
        self._take_in()

    def discard(self) -> None:
        """Removes nothing."""

    def ids(self) -> list[int]:
        return [int(one) for one in self._ids]


class _Memory:
    """Has the interface of `StagedFile`, and keeps the file in memory."""

    def __init__(self, target: Path, max_bytes: int) -> None:
        self.target, self._max_bytes = target, max_bytes
        self.data = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes | memoryview) -> None:
        if len(self.data) + len(data) > self._max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.target))
        self.data += data

    def commit(self, modified_at_ns: int = 0) -> None:
        """Changes nothing: the memory holds the whole file."""

    def discard(self) -> None:
        """Removes nothing."""
