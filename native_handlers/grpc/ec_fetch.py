"""Fetches the files of one erasure-coded volume from another server. They have no names yet; see `ec_naming`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.types import max_volume_size_bytes
from native_handlers.format.vif import parse_volume_info
from native_handlers.format.volume_name import format_volume_name
from native_handlers.grpc.checks import errors_as_upstream
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import receive_copy
from native_handlers.grpc.ec_arriving import FilledFile, IndexFile, MemoryFile, SentJournal, WaitingFile
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.layout import (
    MAX_CHECKSUMS_BYTES,
    SHORTEST_RECORD_BYTES,
    most_shard_bytes,
    shard_bytes_of,
)
from native_handlers.storage.erasure_coding.names import encode_ts_of, ratio_of, shard_extension
from native_handlers.storage.model.file_kinds import SHARD_EXTENSIONS
from native_handlers.storage.transfer.receive import StagedFile
from native_handlers.storage.transfer.received_files import MAX_VIF_BYTES, coded_info_file
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from native_handlers.format.vif import EcShardConfig, VolumeInfo
    from native_handlers.grpc.copy_client import CopySource
    from native_handlers.grpc.ec_place import ShardPlace
    from native_handlers.storage.transfer.receive import ArrivingFile

ANY_REVISION = 2**32 - 1
ALL = 2**63 - 1
MAX_IDS_WITHOUT_INDEX = 1 << 17


class FetchedFiles:
    """The files that have come, on disk and without names. Leaving the context removes those without a name.

    Each method raises RpcFailure where its file does not come whole, or is refused; then no part of the file stays.

    Attributes:
        complete: the files, in the order of their coming.
    """

    def __init__(self, source: CopySource, place: ShardPlace) -> None:
        self._source, self._place = source, place
        self.complete: list[StagedFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.complete:
            file.discard()

    @property
    def index(self) -> IndexFile | None:
        """The .ecx, if one has come."""
        return next((one for one in self.complete if isinstance(one, IndexFile)), None)

    def fetch_shard(self, shard_id: int, info: VolumeInfo | None) -> None:
        """Fetches a shard. An empty one is refused: it is no shard, and may replace a whole one. So is one that is
        longer than those of the volume of the source's .vif; without a length there, than those of the largest volume.
        """
        place, extension = self._place, shard_extension(shard_id)
        path = place.path(place.location.path, extension)
        dat_bytes = dat_bytes_of(info) or max_volume_size_bytes(place.store.offset_width_bytes)
        most = most_shard_bytes(dat_bytes, ratio_of(info).data)
        make = partial(FilledFile, place.files, path, max_bytes=most, usage=place.location.usage)
        self._fetch(extension, make)

    def fetch_checksums(self) -> None:
        """Fetches the .ecsum, if the source has one."""
        path = self._place.path(self._place.location.path, ".ecsum")
        usage = self._place.location.usage
        make = partial(StagedFile, self._place.files, path, max_bytes=MAX_CHECKSUMS_BYTES, usage=usage)
        self._fetch(".ecsum", make, is_optional=True)

    def fetch_index(self, info: VolumeInfo | None) -> None:
        """Fetches the .ecx. An empty one is refused: a failed copy leaves an empty one. So are one with a partial row,
        and one with more rows than the volume of the source's .vif has records.
        """
        place, width = self._place, self._place.store.offset_width_bytes
        index_dir = place.index_dir()
        path = place.path(index_dir, ".ecx")
        most = self._held_bytes(info) // SHORTEST_RECORD_BYTES * row_bytes(width)
        # -minFreeSpace is about the disk of the data.
        usage = place.location.usage if index_dir == place.location.path else None
        self._fetch(".ecx", partial(IndexFile, place.files, path, width, most, usage))

    def _held_bytes(self, info: VolumeInfo | None) -> int:
        """The most bytes of records that the source's shards may hold."""
        most = max_volume_size_bytes(self._place.store.offset_width_bytes)
        dat_bytes = dat_bytes_of(info)
        if not dat_bytes:
            return most
        # Upstream notes the length of the .dat before it makes the shards, so they may be longer.
        data_shards = ratio_of(info).data
        shards = (one.size_bytes for one in self.complete if one.target.suffix in SHARD_EXTENSIONS)
        return min(most, data_shards * max((shard_bytes_of(dat_bytes, data_shards), *shards)))

    def fetch_info(self) -> None:
        """Fetches the .vif, if the source has one. The checks of ReceiveFile apply to the .vif."""
        place, store = self._place, self._place.store
        paths = VolumePaths(place.location.path, place.location.idx_path, place.collection, place.volume_id)
        volume, width = store.find_volume(place.volume_id), store.offset_width_bytes
        self._fetch(".vif", partial(coded_info_file, place.files, paths, volume, width), is_optional=True)

    def fetch_journal(self) -> list[int]:
        """The ids in the source's .ecj. A deletion is of a needle in the index, so the index bounds their number."""
        place = self._place
        with errors_as_upstream():
            index_dir = place.store.ec.find_index_dir(place.collection, place.volume_id, place.location)
            facts = place.files.facts(place.path(index_dir, ".ecx")) if index_dir is not None else None
        sizes = [one.size_bytes for one in (self.index, facts) if one is not None]
        rows = max(sizes, default=0) // row_bytes(place.store.offset_width_bytes)
        journal = SentJournal(place.path(place.location.path, ".ecj"), max(rows, MAX_IDS_WITHOUT_INDEX))
        self._receive(".ecj", lambda: journal, is_optional=True)
        return journal.ids()

    def check_unchanged(self, info: VolumeInfo | None) -> None:
        """Raises RpcFailure where the source's coding is no longer that of `info`, its first answer. Then the
        files that have come are of two codings.
        """
        now = ask_info(self._source, self._place.collection, self._place.volume_id)
        if _coding_of(now) != _coding_of(info):
            times = f"want {encode_ts_of(info)}, got {encode_ts_of(now)}"
            raise RpcFailure(f"the source's files belong to a different encode run by now ({times})")

    def _fetch(self, extension: str, make: Callable[[], StagedFile], *, is_optional: bool = False) -> None:
        """Fetches a file that then waits for its name."""
        self._receive(extension, lambda: WaitingFile(make(), self.complete), is_optional=is_optional)

    def _receive(self, extension: str, make: Callable[[], ArrivingFile], *, is_optional: bool) -> None:
        place = self._place
        request = _request(place.collection, place.volume_id, extension, is_optional=is_optional)
        made: list[ArrivingFile] = []

        def note() -> ArrivingFile:
            made.append(make())
            return made[0]

        for _ in receive_copy(self._source, request, note):
            pass
        if not made and not is_optional:
            raise RpcFailure(f"failed to copy {place.volume_id}{extension} file: the source sent nothing")


def ask_info(source: CopySource, collection: str, volume_id: int) -> VolumeInfo | None:
    """The source's .vif; None where there is none, or none that can be parsed. Raises RpcFailure."""
    content = MemoryFile(Path(format_volume_name(collection, volume_id) + ".vif"), MAX_VIF_BYTES)
    for _ in receive_copy(source, _request(collection, volume_id, ".vif", is_optional=True), lambda: content):
        pass
    try:
        return parse_volume_info(bytes(content.data))
    except FormatError:
        return None


def dat_bytes_of(info: VolumeInfo | None) -> int:
    """The length of the coded .dat in a .vif; 0 where that is not known."""
    return max(info.dat_file_size, 0) if info is not None else 0


def _request(collection: str, volume_id: int, extension: str, *, is_optional: bool) -> pb.CopyFileRequest:
    return pb.CopyFileRequest(
        volume_id=volume_id,
        ext=extension,
        compaction_revision=ANY_REVISION,
        stop_offset=ALL,
        collection=collection,
        is_ec_volume=True,
        ignore_source_file_not_found=is_optional,
    )


def _coding_of(info: VolumeInfo | None) -> tuple[EcShardConfig | None, int]:
    """The values by which the .vif of one coding differs from that of another. An older server writes no time."""
    return (None, 0) if info is None else (info.ec_shard_config, info.dat_file_size)
