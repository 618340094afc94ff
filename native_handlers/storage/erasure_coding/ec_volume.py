"""An erasure-coded volume that is open on one disk: some of its shards, its index, and the deletions since its coding.

Source: weed/storage/erasure_coding/ec_volume.go, ec_volume_delete.go, ec_shard.go.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.idx import IdxEntry, row_bytes
from native_handlers.format.types import CURRENT_VERSION, TOMBSTONE_SIZE
from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.bitrot import load_checksums
from native_handlers.storage.erasure_coding.index_files import (
    check_whole,
    count_rows,
    deleted_ids,
    find_row,
)
from native_handlers.storage.erasure_coding.layout import Layout
from native_handlers.storage.erasure_coding.names import encode_ts_of, load_info, ratio_of, shard_extension
from native_handlers.storage.model.errors import VolumeClosed
from native_handlers.storage.model.report import ReadFindingKind
from native_handlers.storage.system.files import FileRetired, SharedFile
from native_handlers.storage.volume.damage import VolumeDamage
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from native_handlers.storage.erasure_coding.bitrot import Checksums, Protection
    from native_handlers.storage.erasure_coding.deletions import Deletions
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.damage import DamageReports


@dataclass(frozen=True, slots=True)
class EcPlace:
    """The places of an erasure-coded volume's files on one disk.

    Args:
        index_dir: the directory of .ecx and .ecj: beside the shards, the index directory, or one on another disk.
        disk_type: the disk type for heartbeats, in its wire form.
        index_users: the data directories of all disks that use that index. Any of them may have the .vif.
    """

    data_dir: Path
    index_dir: Path
    collection: str
    volume_id: int
    disk_id: int
    disk_type: str
    index_users: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id)

    @property
    def base(self) -> Path:
        return self.data_dir / self.name

    def shard(self, shard_id: int) -> Path:
        return self.data_dir / (self.name + shard_extension(shard_id))

    def index(self, extension: str) -> Path:
        """The path of ``.ecx`` or ``.ecj``."""
        return self.index_dir / (self.name + extension)

    def sidecars(self, extension: str) -> list[Path]:
        """The places of ``.vif`` or ``.ecsum``, the first choice first."""
        return list(dict.fromkeys(directory / (self.name + extension) for directory in (self.data_dir, self.index_dir)))

    def infos(self) -> list[Path]:
        """The places of the .vif, the first choice first."""
        others = (directory / (self.name + ".vif") for directory in self.index_users)
        return list(dict.fromkeys((*self.sidecars(".vif"), *others)))


class EcShard:
    """An open shard file. It is closed when its volume has released it and the last read has ended."""

    def __init__(self, files: Files, place: EcPlace, shard_id: int) -> None:
        """Opens the file. Raises OSError."""
        self.id = shard_id
        self.path = place.shard(shard_id)
        self._file = SharedFile.open(files, self.path, os.O_RDONLY)
        try:
            self.size_bytes = files.facts_of(self._file.fd).size_bytes
        except OSError:
            self._file.release()
            raise

    def read_into(self, buffer: memoryview, offset_bytes: int, *, cached_only: bool = False) -> bool:
        """Fills `buffer` and returns True. Returns False where the shard ends before, or was closed.

        Raises:
            OSError: the disk failed.
            NotCached: `cached_only`, and memory does not hold all of the bytes.
        """
        try:
            with held(self._file):
                if cached_only:
                    self._file.read_cached_into(buffer, offset_bytes)
                    return True
                return self._file.read_into(buffer, offset_bytes) == len(buffer)
        except FileRetired:
            return False

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`, fewer only at the end of the file. Raises OSError, or FileRetired when the shard
        is closed.
        """
        with held(self._file):
            return self._file.read(length_bytes, offset_bytes)

    def close(self) -> None:
        """Releases the file."""
        self._file.release()


@contextmanager
def held(file: SharedFile) -> Iterator[SharedFile]:
    """Keeps a file open inside the block. Raises FileRetired where it is closed."""
    file.retain()
    try:
        yield file
    finally:
        file.release()


class EcVolume:
    """The open shards of one volume on one disk. Safe from any thread."""

    def __init__(
        self,
        files: Files,
        place: EcPlace,
        offset_width_bytes: int,
        join_deletions: Callable[[EcPlace, int], Deletions],
        damage: DamageReports | None = None,
    ) -> None:
        """Opens the index. No shard is open yet.

        Args:
            join_deletions: opens the journal of a place and a coding time, and returns the deletions of that coding.
                May raise OSError.
            damage: gets reports of damage that reads find.

        Raises:
            OSError: FileNotFoundError where there is no .ecx; nothing stays open.
        """
        self.place = place
        self.id, self.collection = place.volume_id, place.collection
        self.disk_type = place.disk_type
        paths = VolumePaths(place.data_dir, place.index_dir, place.collection, place.volume_id)
        self.damage = VolumeDamage(paths, damage, ReadFindingKind.SHARDS_DAMAGED)
        """The damage that reads have found since the last shard was opened or closed."""
        self._files, self._width = files, offset_width_bytes
        self.shards: dict[int, EcShard] = {}
        """By id. Replaced as a whole: readers take no lock."""
        # Protects the fields below, while they are replaced.
        self._lock = threading.Lock()
        self._is_closed = False
        info = load_info(files, place.infos())
        self.ratio = ratio_of(info)
        self.version = (info.version if info is not None else 0) or CURRENT_VERSION
        self.dat_bytes = info.dat_file_size if info is not None else 0
        """The length of the .dat when it was coded; 0 where it is not known."""
        self.expire_at_s = info.expire_at_s if info is not None else 0
        self.encode_ts_ns = encode_ts_of(info)
        """Tells two encodings of a volume apart; 0 where the .vif has none."""
        self._folded_count: int | None = None
        """How many of the deleted needles the .ecx has as deleted; None until `count_folded` has counted them."""
        self._ecx = SharedFile.open(files, place.index(".ecx"), os.O_RDONLY)
        try:
            facts = files.facts_of(self._ecx.fd)
            self.created_at_s, self.ecx_bytes = facts.modified_at_s, facts.size_bytes
            self.deletions = join_deletions(place, self.encode_ts_ns)
        except OSError:
            self._ecx.release()
            raise

    # ---- facts

    @property
    def deleted(self) -> set[int]:
        """The ids that were deleted since the volume was coded, on any disk of this server."""
        return self.deletions.ids

    @property
    def layout(self) -> Layout:
        """The layout of the blocks."""
        if self.dat_bytes > 0:
            return Layout.of_dat(self.dat_bytes, self.ratio.data)
        return Layout.of_shard(self.shard_bytes, self.ratio.data)

    @property
    def shard_bytes(self) -> int:
        """The length of a shard; 0 while none with content is open."""
        return max((shard.size_bytes for shard in self.shards.values()), default=0)

    @property
    def file_count(self) -> int:
        """The number of needles in the index, deleted ones included."""
        return self.ecx_bytes // row_bytes(self._width)

    @property
    def is_expired(self) -> bool:
        return 0 < self.expire_at_s < time.time()

    def counts(self) -> tuple[int, int, int]:
        """Live needles, deleted ones, and the sum of all sizes, as upstream counts them: deletions since the coding
        count as live. Reads the whole index. Raises as `read_index`.
        """
        return count_rows(self.read_index(), self._width)

    def read_index(self) -> bytes:
        """The .ecx. Raises OSError, VolumeClosed, or BadEcIndex where its last row is partial."""
        content = self.read_rows()
        check_whole(content, self._width, self.place.index(".ecx"))
        return content

    def read_rows(self) -> bytes:
        """The .ecx as it is now, with a partial row if there is one. Raises OSError, VolumeClosed."""
        try:
            with held(self._ecx) as file:
                return file.read(self._files.facts_of(file.fd).size_bytes, 0)
        except FileRetired as error:
            raise VolumeClosed(self.id) from error

    def checksums(self) -> tuple[Protection, Checksums | None]:
        """The content of the .ecsum. Raises OSError."""
        return load_checksums(self._files, self.place.sidecars(".ecsum"), self.ratio)

    # ---- shards

    def add_shard(self, shard: EcShard) -> EcShard | None:
        """Adds an open shard. Returns the open shard of the same id that it replaces; the caller closes that one."""
        old = self.shards.get(shard.id)
        self.shards = dict(sorted({**self.shards, shard.id: shard}.items()))
        return old

    def take_shard(self, shard_id: int) -> EcShard | None:
        """Takes an open shard out, if there is one; the caller closes the shard."""
        shard = self.shards.get(shard_id)
        if shard is not None:
            self.shards = {one: other for one, other in self.shards.items() if one != shard_id}
        return shard

    # ---- needles

    def find(self, needle_id: int, *, cached_only: bool = False) -> IdxEntry | None:
        """The needle's row, with the size of a deletion where the needle was deleted; None where there is none.

        Raises:
            VolumeClosed, OSError.
            NotCached: `cached_only`, and memory does not hold the needed part of the index.
        """
        try:
            with held(self._ecx) as file:
                read = partial(_read_cached, self._files, file) if cached_only else file.read
                entry = find_row(read, self.ecx_bytes, needle_id, self._width)
        except FileRetired as error:
            raise VolumeClosed(self.id) from error
        if entry is not None and needle_id in self.deleted:
            return entry._replace(size=TOMBSTONE_SIZE)
        return entry

    def delete(self, needle_id: int) -> None:
        """Records a deletion, durably, for all disks with this coding. An absent or deleted needle is a success.

        Raises:
            VolumeClosed, OSError: as `Deletions.record`.
        """
        entry = self.find(needle_id)
        if entry is not None and entry.size >= 0:
            self.deletions.record([needle_id])

    def reopen_index(self) -> None:
        """Goes on with the .ecx that is at its path now. Raises OSError: the volume goes on with the old one."""
        ecx = SharedFile.open(self._files, self.place.index(".ecx"), os.O_RDONLY)
        try:
            facts = self._files.facts_of(ecx.fd)
            with self._lock:
                if not self._is_closed:
                    self._ecx, ecx = ecx, self._ecx
                    self.created_at_s, self.ecx_bytes = facts.modified_at_s, facts.size_bytes
                    self._folded_count = None
        finally:
            ecx.release()

    @property
    def delete_count(self) -> int:
        """The number of needles that were deleted since the coding. Those that the .ecx has as deleted are left out,
        once `count_folded` has counted them.
        """
        # What is deleted later, the index does not have as deleted.
        return len(self.deleted) - (self._folded_count or 0)

    @property
    def is_to_be_counted(self) -> bool:
        """Whether `count_folded` has something to count that it has not counted."""
        return bool(self.deleted) and self._folded_count is None

    def count_folded(self) -> None:
        """Counts the deleted needles that the .ecx has as deleted. Reads the whole index. Raises OSError,
        VolumeClosed.
        """
        ecx, deleted = self._ecx, self.deleted
        count = len(deleted.intersection(deleted_ids(self.read_rows(), self._width)))
        with self._lock:
            # Else the index was replaced meanwhile, and which one was read is not known.
            if self._ecx is ecx:
                self._folded_count = count

    def close(self) -> None:
        """Releases all files; reads keep them open until they end. May be called again."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        shards, self.shards = self.shards, {}
        for shard in shards.values():
            shard.close()
        self.deletions.leave(self.place.index(".ecj"), self.place.disk_id)
        self._ecx.release()


def _read_cached(files: Files, file: SharedFile, length_bytes: int, offset_bytes: int) -> bytes:
    return files.read_cached(file.fd, length_bytes, offset_bytes)
